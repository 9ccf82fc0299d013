//! Runs shards for a test: a script on one core, and what it returns.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engram_engine::model::{LinkKind, MemoryId, NewMemory, SpaceName};
use engram_engine::phase::Phase;
use engram_engine::request::{Answer, Cue, CueKind, Recall, Rejection, Request, StoreMode, Wait};
use engram_shards::{Config, CorePlace, Directory, Handle, ImageOptions, start};

/// Opens `path` with `shards` shards, runs `script` on shard 0, stops and returns what it returned.
pub fn run<F, S, T>(path: &Path, shards: u16, script: F) -> T
where
    F: Fn(Handle) -> S + Clone + Send + 'static,
    S: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let directory = Directory::open(path, shards).expect("the directory opens");
    let places = vec![CorePlace { cpu: None, node: None, spin: Duration::ZERO }];
    let grace = std::time::Duration::from_secs(10);
    let images = ImageOptions { fast: None, memory_bytes: u64::MAX, grace };
    let folder = engram_cold::ColdUrl::folder(&directory.path().join("cold"));
    let cold = engram_cold::Tier::new(folder, engram_cold::Limits::default());
    let cold = Arc::new(cold.expect("a folder needs no settings"));
    let sweep_pause = Duration::from_secs(60);
    let (cache_bytes, demotes) = (1 << 20, false);
    let config = Config { directory, places, cache_bytes, images, cold, sweep_pause, demotes };
    let result: Arc<Mutex<Option<T>>> = Arc::default();
    let slot = result.clone();
    let finished = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let running = start(config, move |handle| {
        let (script, slot, finished) = (script.clone(), slot.clone(), finished.clone());
        async move {
            handle.open();
            wait_until(|| handle.status().life().phase() == Phase::Running).await;
            if handle.shard().0 == 0 {
                let value = script(handle).await;
                *slot.lock().unwrap() = Some(value);
                finished.store(true, std::sync::atomic::Ordering::Release);
            } else {
                wait_until(|| finished.load(std::sync::atomic::Ordering::Acquire)).await;
            }
        }
    })
    .expect("the shards start");
    running.join().expect("the shards end");
    let value = result.lock().unwrap().take();
    value.expect("the script ran")
}

async fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..30_000 {
        if condition() {
            return;
        }
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited 30 s in vain");
}

pub fn memory(id: &str, content: &str) -> NewMemory {
    NewMemory {
        id: MemoryId::new(id).unwrap(),
        content: Some(content.to_owned()),
        embedding: None,
        metadata: Default::default(),
        confidence: None,
        links: None,
        created_at: None,
        expires_at: None,
    }
}

pub async fn store(handle: &Handle, memories: Vec<NewMemory>) -> Result<Answer, Rejection> {
    let space = SpaceName::default();
    let (mode, wait) = (StoreMode::Upsert, Wait::Durable);
    handle.call(Request::Store { space, memories, mode, wait }).await
}

pub async fn count(handle: &Handle) -> u64 {
    let filter = Default::default();
    let answer = handle.call(Request::Count { space: SpaceName::default(), filter }).await;
    match answer {
        Ok(Answer::Count(count)) => count,
        other => panic!("not a count: {other:?}"),
    }
}

pub async fn recall_text(handle: &Handle, text: &str, explain: bool) -> Vec<(String, f64, u8)> {
    let cue = Cue { kind: CueKind::Text(text.to_owned()), weight: 1.0 };
    let recall = Recall { cues: vec![cue], explain, ..Recall::default() };
    let space = SpaceName::default();
    match handle.call(Request::Recall { space, recall: Box::new(recall) }).await {
        Ok(Answer::Recalled(recalled)) => recalled
            .memories
            .into_iter()
            .map(|m| (m.memory.id.as_str().to_owned(), m.score, m.hops))
            .collect(),
        other => panic!("not recalled: {other:?}"),
    }
}

pub fn kind(name: &str) -> LinkKind {
    LinkKind::new(name).unwrap()
}
