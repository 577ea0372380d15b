//! Runs the program under test and keeps what it said.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};

/// The repository's folder.
pub(crate) const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// The program under test: the one cargo built, unless `FRESHET_BINARY` names another.
pub(crate) fn path() -> PathBuf {
    std::env::var_os("FRESHET_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_freshet").into(), PathBuf::from)
}

/// A command that runs it in `folder`, where it finds nothing of AWS but what a test adds.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.current_dir(folder).args(arguments).env_remove("FRESHET_LOG");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
}

/// The number that the environment asks for by this name, for runs by hand; else this one.
pub(crate) fn number_asked_for(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |asked| asked.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// Tells a figure where CI's log shows it: what a test prints as usual is kept back where it passes.
pub(crate) fn tell_figure(figure: &str) {
    std::io::stdout().write_all(format!("{figure}\n").as_bytes()).unwrap();
}

/// Runs it in `folder` to its end.
pub(crate) fn freshet(folder: &Path, arguments: &[&str]) -> Ended {
    let output = command(folder, arguments).output().expect("the program can be started");
    Ended::new(format!("freshet {}", arguments.join(" ")), output)
}

/// A program that runs, killed when this is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Starts a command.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("the program can be started"))
    }

    /// Sends it a signal, such as `-TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(sent.expect("`kill` can be started").success(), "the program had ended before it was sent {signal}");
    }

    /// Kills it at whatever instruction it is, and waits until it has ended.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("the program can be killed");
        self.wait();
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("the program can be waited for")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a program says that it, or a part of it, has panicked.
pub(crate) fn has_broken_down(said: &str) -> bool {
    said.contains("panicked at") || said.contains("a part of the program broke down")
}

/// A program that ran to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    what: String,
    output: Output,
}

impl Ended {
    /// Keeps what a program said; it may have failed, but not have panicked.
    pub(crate) fn new(what: String, output: Output) -> Self {
        let ended = Self { what, output };
        assert!(!has_broken_down(&ended.stderr()), "{}", ended.report());
        ended
    }

    /// Demands this exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{}", self.report());
        self
    }

    /// Demands that stderr says all of this.
    #[track_caller]
    pub(crate) fn tells(self, texts: &[&str]) -> Self {
        let told = self.stderr();
        for text in texts {
            assert!(told.contains(text), "stderr does not say {text:?}\n{}", self.report());
        }
        self
    }

    /// Demands that stdout says all of these.
    #[track_caller]
    pub(crate) fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stdout().contains(text), "{text:?} is not in stdout:\n{}", self.report());
        }
        self
    }

    /// Its exit code; None where a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// What it wrote to stdout.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// The same, when it is no text.
    pub(crate) fn stdout_bytes(&self) -> &[u8] {
        &self.output.stdout
    }

    /// What it wrote to stderr; texts inside JSON log lines stand without their escapes.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).lines().map(|line| unescaped(line) + "\n").collect()
    }

    /// Its log lines.
    pub(crate) fn log(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8_lossy(&self.output.stderr);
        text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Everything, for a message.
    pub(crate) fn report(&self) -> String {
        let status = self.output.status;
        format!("{}\n{status}\n--- stdout\n{}--- stderr\n{}", self.what, self.stdout(), self.stderr())
    }
}

fn unescaped(line: &str) -> String {
    let parsed = serde_json::from_str::<serde_json::Value>(line).ok();
    let Some(fields) = parsed.as_ref().and_then(serde_json::Value::as_object) else { return line.to_owned() };
    let shown = fields.iter().map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name}={text}"),
        None => format!("{name}={value}"),
    });
    shown.collect::<Vec<_>>().join(" ")
}
