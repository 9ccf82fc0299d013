//! Power cuts: load, no power, what is there afterwards.
//!
//! *Invariants*: what was acknowledged is known to the writers alone, who are not on the disk; after
//! each cut everything is read back, from a server that started from the disk alone.
//!
//! *Not here*: other faults (`failures`).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::device::Fate;
use crate::http::Connection;
use crate::random::Random;
use crate::server::Server;
use crate::site::{Site, WRITERS};
use crate::volume::Format;
use crate::writer::{End, Finding, Writer, ask, read_on};

/// Cuts that one file system sees.
const CUTS_PER_VOLUME: u64 = 50;
/// File systems are checked after one cut in so many.
const CHECK_ONE_IN: u64 = 10;
/// Longest load before a cut.
const LOAD_MS_MAX: u64 = 350;
/// How often the next start has another number of shards.
const OTHER_SHARDS_PERCENT: u64 = 15;
const SHARDS_MAX: u64 = 3;
/// Longest time after a start before a cut.
const START_MS_MAX: u64 = 150;
/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a cut may wait for something that can be lost.
const VOLATILE_MAX: Duration = Duration::from_millis(50);
/// Longest delay of a write or a sync.
const DELAY_MAX: Duration = Duration::from_millis(3);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    pub format: Format,
    pub cuts: u64,
    pub seed: u64,
    /// 1 is an honest disk.
    pub honoured_one_in: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Report {
    pub cuts: u64,
    pub acknowledged: u64,
    pub fate: Fate,
    pub findings: Vec<Finding>,
    /// What could not be done; what the file system or the server refuses after a cut is one, too.
    pub failure: Option<String>,
    /// What the server said where something was found.
    pub said: String,
    /// How many starts after a cut were from images.
    pub from_images: u64,
    /// Starts after a cut.
    pub recoveries: Vec<Duration>,
}

impl Report {
    /// Whether anything is not as it has to be.
    pub fn is_bad(&self) -> bool {
        self.failure.is_some() || !self.findings.is_empty()
    }

    /// How many acknowledged writes were lost.
    pub fn lost(&self) -> usize {
        self.findings.iter().filter(|f| matches!(f, Finding::Lost(_))).count()
    }

    /// How many answers were wrong.
    pub fn wrong(&self) -> usize {
        self.findings.len() - self.lost()
    }

    /// Of the times that starts took; 100 is the longest.
    pub fn recovery(&self, percent: usize) -> Duration {
        let mut all = self.recoveries.clone();
        all.sort();
        let index = (all.len() * percent / 100).min(all.len().saturating_sub(1));
        all.get(index).copied().unwrap_or_default()
    }
}

/// When the power goes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// While clients write.
    Load,
    /// While clients write, after the process was killed and started again.
    AfterKill,
    /// While the server stops, as it was told.
    Stop,
    /// After the server has stopped, as it was told.
    AfterStop,
    /// While the server starts again after it was killed.
    Start,
}

impl Moment {
    fn draw(random: &mut Random) -> Self {
        match random.below(10) {
            0..=5 => Self::Load,
            6 => Self::AfterKill,
            7 => Self::Stop,
            8 => Self::AfterStop,
            _ => Self::Start,
        }
    }
}

/// Cuts the power as often as planned, or until something is lost, wrong or refused.
pub fn run(plan: &Plan, binary: &Path, folder: &Path) -> Report {
    let mut report = Report::default();
    let mut random = Random::new(plan.seed, 2);
    while report.cuts < plan.cuts && !report.is_bad() {
        let cuts = CUTS_PER_VOLUME.min(plan.cuts - report.cuts);
        let place = folder.join(format!("{}-{}", plan.format.name(), report.cuts));
        let outcome = Cutter::new(plan, random.next(), binary, &place)
            .and_then(|mut cutter| cutter.run(cuts, &mut report));
        report.failure = outcome.err();
    }
    report
}

/// Power cuts on one file system.
struct Cutter {
    site: Site,
    random: Random,
}

impl Cutter {
    fn new(plan: &Plan, seed: u64, binary: &Path, folder: &Path) -> Result<Self, String> {
        let site = Site::new(folder, plan.format, seed, plan.honoured_one_in, binary)?;
        site.volume.disk.device().delay(DELAY_MAX);
        Ok(Self { site, random: Random::new(seed, 5) })
    }

    fn run(&mut self, cuts: u64, report: &mut Report) -> Result<(), String> {
        let mut server = self.site.launch.start()?;
        server.ready()?;
        for _ in 0..cuts {
            let moment = Moment::draw(&mut self.random);
            if self.random.percent(OTHER_SHARDS_PERCENT) {
                // The next start moves everything to so many.
                self.site.launch.shards = 1 + self.random.below(SHARDS_MAX);
            }
            let number = report.cuts + 1;
            let told = |error| format!("cut {number} ({moment:?}): {error}");
            self.cut(server, moment, report).map_err(told)?;
            report.cuts = number;
            let fate = self.site.volume.come_back().map_err(told)?;
            report.fate.kept += fate.kept;
            report.fate.lost += fate.lost;
            report.fate.torn += fate.torn;
            if number.is_multiple_of(CHECK_ONE_IN) {
                self.site.volume.check().map_err(told)?;
            }
            self.site.launch.forget_fast()?;
            server = self.site.launch.start()?;
            report.recoveries.push(server.ready().map_err(told)?);
            report.from_images += u64::from(server.has_started_from_image().map_err(told)?);
            report.findings.extend(self.site.verify(&server).map_err(told)?);
            if !report.findings.is_empty() {
                report.said =
                    format!("cut {number} ({moment:?}), the server said: {}", server.log());
                return Ok(());
            }
        }
        Ok(())
    }

    /// Brings about the moment and takes the power away.
    fn cut(&mut self, server: Server, moment: Moment, report: &mut Report) -> Result<(), String> {
        match moment {
            Moment::Load => self.load(server, Ending::Power, report),
            Moment::AfterKill => {
                self.load(server, Ending::Kill, report)?;
                let mut server = self.site.launch.start()?;
                server.ready()?;
                report.findings.extend(self.site.verify(&server)?);
                self.load(server, Ending::Power, report)
            }
            Moment::Stop => self.load(server, Ending::Terminate, report),
            Moment::AfterStop => self.load(server, Ending::Stop, report),
            Moment::Start => {
                self.load(server, Ending::Kill, report)?;
                let server = self.site.launch.start()?;
                std::thread::sleep(self.draw_pause(START_MS_MAX));
                self.site.volume.disk.device().cut();
                server.kill();
                Ok(())
            }
        }
    }

    /// Has clients write and read for a while, and ends the server under them.
    fn load(&mut self, server: Server, ending: Ending, report: &mut Report) -> Result<(), String> {
        let lasts = self.draw_pause(LOAD_MS_MAX);
        let grace = self.draw_pause(ending.grace_ms_max());
        let seed = self.random.next();
        // Most cuts come while there is something to lose.
        let waits = if self.random.percent(75) { VOLATILE_MAX } else { Duration::ZERO };
        let compacts = self.random.percent(50);
        let (stop, disturbed) = (AtomicBool::new(false), AtomicBool::new(false));
        let before = self.site.acknowledged();
        let (address, disk, writers) =
            (server.address(), &self.site.volume.disk, &mut self.site.writers);
        let (mut refusals, mut stopped) = (Vec::new(), Ok(()));
        std::thread::scope(|scope| {
            let (stop, disturbed) = (&stop, &disturbed);
            let write = move |writer: &mut Writer| {
                let end = writer.write(address, stop);
                (end != End::Told && !disturbed.load(Ordering::SeqCst)).then_some(end)
            };
            let writing: Vec<_> =
                writers.iter_mut().map(|writer| scope.spawn(move || write(writer))).collect();
            let reading = scope.spawn(move || read_on(address, WRITERS, seed, stop));
            let compacting = scope.spawn(move || compacts.then(|| compact(address, stop)));
            std::thread::sleep(lasts);
            disturbed.store(true, Ordering::SeqCst);
            match ending {
                Ending::Kill => {}
                Ending::Power => disk.cut_when_volatile(waits),
                Ending::Terminate | Ending::Stop => server.signal("TERM"),
            }
            std::thread::sleep(grace);
            match ending {
                Ending::Kill | Ending::Power => server.kill(),
                Ending::Terminate => {
                    disk.device().cut();
                    server.kill();
                }
                Ending::Stop => {
                    stopped = server.ended().map(|_| ());
                    disk.device().cut();
                }
            }
            stop.store(true, Ordering::SeqCst);
            let ended = writing.into_iter().map(|writer| writer.join().expect("no panic"));
            refusals.extend(ended.flatten());
            report.findings.extend(reading.join().expect("no panic"));
            compacting.join().expect("no panic");
        });
        report.acknowledged += self.site.acknowledged() - before;
        match refusals.first() {
            None => stopped,
            Some(end) => Err(format!("a write failed on a disk that works: {end:?}")),
        }
    }

    fn draw_pause(&mut self, ms_max: u64) -> Duration {
        Duration::from_micros(self.random.below(ms_max * 1000))
    }
}

/// How a load ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The process is killed.
    Kill,
    /// The power goes first.
    Power,
    /// It is told to stop, and on the way the power goes.
    Terminate,
    /// It is told to stop and has ended when the power goes.
    Stop,
}

impl Ending {
    /// How long it may go on.
    fn grace_ms_max(self) -> u64 {
        match self {
            Self::Kill | Self::Stop => 1,
            Self::Power => 10,
            Self::Terminate => 500,
        }
    }
}

/// Has the log compacted again and again.
fn compact(server: SocketAddr, stop: &AtomicBool) {
    let Ok(mut connection) = Connection::open(server, PATIENCE) else { return };
    let request = ("POST", "/api/v1/compaction".to_owned(), Value::Null);
    while !stop.load(Ordering::SeqCst) && ask(&mut connection, &request).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
}
