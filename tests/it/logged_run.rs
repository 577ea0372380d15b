//! A run of the program beside a test that follows its log.

use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStderr, Command, Output, Stdio};

use crate::binary::{self, Ended, Running};
use crate::scene::Scene;

/// A run whose log is read as it comes.
pub(crate) struct Run {
    pub(crate) program: Running,
    what: String,
    log: BufReader<ChildStderr>,
    /// What the log has said so far.
    said: String,
}

impl Run {
    pub(crate) fn start(scene: &Scene, arguments: &[&str]) -> Self {
        Self::of(&mut binary::command(scene.folder(), arguments), format!("freshet {}", arguments.join(" ")))
    }

    /// A run of this command, called `what`.
    pub(crate) fn of(command: &mut Command, what: String) -> Self {
        let mut program = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let log = BufReader::new(program.0.stderr.take().unwrap());
        Self { program, what, log, said: String::new() }
    }

    /// A run that has said `message` so many times.
    pub(crate) fn once_until(scene: &Scene, message: &str, times: usize) -> Self {
        let mut run = Self::start(scene, &["run", "--once"]);
        run.until_said(message, times);
        run
    }

    /// Waits until the log has said `message` so many times more.
    pub(crate) fn until_said(&mut self, message: &str, times: usize) {
        let mut seen = 0;
        while seen < times {
            let start = self.said.len();
            let read = self.log.read_line(&mut self.said).unwrap();
            assert!(read > 0, "the run ended before it said {message:?}:\n{}", self.said);
            seen += usize::from(self.said[start..].contains(message));
        }
    }

    /// Waits until it has ended.
    pub(crate) fn end(mut self) -> Ended {
        self.log.read_to_string(&mut self.said).unwrap();
        let mut stdout = Vec::new();
        self.program.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        let status = self.program.wait();
        Ended::new(self.what.clone(), Output { status, stdout, stderr: self.said.clone().into_bytes() })
    }

    pub(crate) fn kill(mut self) -> Ended {
        self.program.kill();
        self.end()
    }
}
