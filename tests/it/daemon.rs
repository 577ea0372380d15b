//! `freshet run` as a daemon beside a test, where it finds S3 and SQS; it ends with the test at the latest.

use std::path::PathBuf;
use std::process::Stdio;

use crate::binary::{self, Running};
use crate::ministack::{Messages, Ministack, Queue};
use crate::scene::Scene;
use crate::until::until;

/// A running daemon, killed when this is dropped.
pub(crate) struct Daemon {
    program: Running,
    log: PathBuf,
}

/// Where the daemons of a scene log.
fn log_of(scene: &Scene) -> PathBuf {
    scene.path("daemon.log")
}

/// What the daemons of a scene have logged; none of them may have panicked.
pub(crate) fn log(scene: &Scene) -> String {
    let said = std::fs::read_to_string(log_of(scene)).unwrap_or_default();
    assert!(!binary::has_broken_down(&said), "{said}");
    said
}

impl Daemon {
    /// Starts one.
    pub(crate) fn start(scene: &Scene, aws: &Ministack) -> Self {
        let log = log_of(scene);
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = binary::command(scene.folder(), &["run"]);
        command.envs(aws.environment()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        Self { program: Running::start(&mut command), log }
    }

    /// The most resident memory that it ever had, in bytes.
    pub(crate) fn memory_most(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.program.0.id())).unwrap();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = most.and_then(|most| most.trim().strip_suffix(" kB")).expect("the daemon runs");
        kib.parse::<u64>().unwrap() * 1_024
    }

    /// Kills it at whatever instruction it is.
    pub(crate) fn kill(mut self) {
        self.program.kill();
    }

    /// Tells it to end, and demands that it does so well.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.program.signal("-TERM");
        let code = self.program.wait().code();
        assert_eq!(code, Some(0), "{}", std::fs::read_to_string(&self.log).unwrap());
    }
}

/// Waits until the queue is empty, as all is acknowledged; asks at most so many times.
pub(crate) async fn until_acknowledged(scene: &Scene, aws: &Ministack, queue: &Queue, asked_max: usize) {
    let is_empty = until(asked_max, async || aws.messages(queue).await == Messages::NONE).await;
    assert!(is_empty, "the queue is never empty\n{}", log(scene));
}
