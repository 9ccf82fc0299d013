//! What was acknowledged is there after a restart.

use engram_engine::model::{Link, MemoryId, Weight};

use crate::cluster::{count, kind, memory, recall_text, run, store};

#[test]
fn memories_and_links_survive_a_restart_on_any_number_of_shards() {
    for shards in [1, 2, 4] {
        let folder = tempfile::tempdir().unwrap();
        let stored = run(folder.path(), shards, |handle| async move {
            let mut first = memory("dog", "a domesticated animal that guards a house");
            first.links = Some(vec![Link {
                to: MemoryId::new("wolf").unwrap(),
                weight: Weight::new(0.5).unwrap(),
                kind: kind("hypernym"),
            }]);
            let many = (0..500).map(|i| memory(&format!("m{i}"), &format!("filler number {i}")));
            store(&handle, vec![first, memory("wolf", "wild relative in packs")]).await.unwrap();
            store(&handle, many.collect()).await.unwrap();
            recall_text(&handle, "animal that guards a house", true).await
        });
        assert_eq!(stored[0].0, "dog", "{shards} shards: {stored:?}");
        assert!(stored.iter().any(|m| m.0 == "wolf" && m.2 == 1), "{shards} shards: {stored:?}");
        let after = run(folder.path(), shards, |handle| async move {
            assert_eq!(count(&handle).await, 502);
            recall_text(&handle, "animal that guards a house", true).await
        });
        assert_eq!(stored, after, "{shards} shards");
    }
}
