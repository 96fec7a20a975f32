//! More places while the nodes' processors are idle: tests wait for pods, timeouts and schedules more than they work, or less,
//! which no number of places fits.

use std::time::Duration;

use kind_client::Node;
use tokio::time::sleep;

use super::Places;

/// How often the processors are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Busier than this in the mean, the processors have no room for more.
const ROOM: f64 = 0.75;
/// Busier than this in the mean, they have too much to do.
const FULL: f64 = 0.95;
/// What the last second counts in the mean.
const NEWEST: f64 = 0.25;
/// Ticks until a test more shows in what the processors do.
const TEST: u32 = 4;
/// Ticks until the tests of a deployment more do.
const DEPLOYMENT: u32 = 15;
/// A deployment more is left alone where less of the memory is free.
const MEMORY: f64 = 0.25;

/// Tells one start of a kernel from all others (random(4)).
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Adds places for tests and deployments while the processors of the nodes are idle, until it is dropped. Where the nodes are on
/// another machine than this process, nothing is known of them, and nothing is done.
pub async fn widen(nodes: &[Node], tests: &Places, deployments: &Places) {
    if !are_here(nodes).await {
        return std::future::pending().await;
    }
    let mut pace = Pace::default();
    let mut last = None;
    loop {
        let now = read("/proc/stat").as_deref().and_then(Ticks::parse);
        if let (Some(last), Some(now)) = (last, now) {
            pace.tick(now.busy_since(last));
            if tests.lacks() && pace.admits(TEST) {
                tests.widen();
            } else if !tests.are_awaited() && deployments.lacks() && has_memory() && pace.admits(DEPLOYMENT) {
                deployments.widen();
            }
            for places in [tests, deployments] {
                places.narrow(pace.is_full());
            }
        }
        last = now;
        sleep(TICK).await;
    }
}

/// Whether the nodes run on the kernel that this process runs on.
async fn are_here(nodes: &[Node]) -> bool {
    let (Some(node), Some(here)) = (nodes.first(), read(BOOT)) else { return false };
    node.exec(["cat", BOOT]).ensure_stdout().await.is_ok_and(|there| there.trim() == here.trim())
}

fn has_memory() -> bool {
    read("/proc/meminfo").as_deref().and_then(free).is_some_and(|free| free >= MEMORY)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// When there may be more.
#[derive(Debug, Default)]
struct Pace {
    /// The mean of what the processors do, from 0 to 1.
    busy: Option<f64>,
    /// Ticks until what was added last shows in it.
    settling: u32,
}

impl Pace {
    fn tick(&mut self, busy: f64) {
        let before = self.busy.unwrap_or(busy);
        self.busy = Some(before + NEWEST * (busy - before));
        self.settling = self.settling.saturating_sub(1);
    }

    /// Whether there may be one more, which then has so many ticks to show.
    fn admits(&mut self, ticks: u32) -> bool {
        let admits = self.settling == 0 && self.busy.is_some_and(|busy| busy < ROOM);
        if admits {
            self.settling = ticks;
        }
        admits
    }

    fn is_full(&self) -> bool {
        self.busy.is_some_and(|busy| busy > FULL)
    }
}

/// What the processors have done since the machine was started, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    /// Of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; the two behind them are in the first two already.
    fn parse(stat: &str) -> Option<Ticks> {
        let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
        let numbers = numbers.map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()?;
        Some(Ticks { all: numbers.iter().sum(), idle: numbers.get(3)? + numbers.get(4)? })
    }

    /// From 0 to 1.
    fn busy_since(self, before: Ticks) -> f64 {
        let of = |now: u64, before: u64| u32::try_from(now.saturating_sub(before)).map_or(0.0, f64::from);
        let all = of(self.all, before.all);
        if all > 0.0 { 1.0 - of(self.idle, before.idle) / all } else { 1.0 }
    }
}

/// What part of the memory is free, of /proc/meminfo.
fn free(meminfo: &str) -> Option<f64> {
    let of = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    Some(of("MemAvailable")? / of("MemTotal")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many seconds of `busy` there is one more, in `seconds`.
    fn added(pace: &mut Pace, busy: f64, seconds: u32, settle: u32) -> Vec<u32> {
        let each = (1..=seconds).filter(|_| {
            pace.tick(busy);
            pace.admits(settle)
        });
        each.collect()
    }

    #[test]
    fn idle_processors_are_given_more_one_after_the_other() {
        let mut pace = Pace::default();
        assert_eq!(added(&mut pace, 0.4, 10, TEST), [1, 5, 9]);
    }

    #[test]
    fn busy_ones_are_not_and_a_moment_s_rest_does_not_count() {
        let mut pace = Pace::default();
        assert!(added(&mut pace, 0.99, 10, TEST).is_empty());
        assert!(pace.is_full());
        assert!(added(&mut pace, 0.4, 1, TEST).is_empty());
        assert!(!pace.is_full());
        assert_eq!(added(&mut pace, 0.4, 4, TEST), [1]);
    }

    #[test]
    fn what_processors_and_memory_do_is_read() {
        let stat = "cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let before = Ticks::parse(stat).unwrap();
        assert_eq!(before, Ticks { all: 1000, idle: 850 });
        let now = Ticks::parse("cpu  160 0 60 825 55 0 0 0 9 0\n").unwrap();
        assert!((now.busy_since(before) - 0.7).abs() < 1e-9);
        assert!((now.busy_since(now) - 1.0).abs() < 1e-9);
        assert_eq!(Ticks::parse("intr 1 2"), None);
        let part = free("MemTotal:       1000 kB\nMemFree: 3 kB\nMemAvailable:    250 kB\n").unwrap();
        assert!((part - 0.25).abs() < 1e-9);
    }
}
