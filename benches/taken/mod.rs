//! What a process took, by Linux's own account.

/// In `/proc/PID/stat`, of a second.
const TICKS: f64 = 100.0;

/// What a process took so far.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Taken {
    /// Seconds, of all processors.
    pub(crate) cpu: f64,
    pub(crate) peak_mib: u64,
}

impl Taken {
    /// The process of this number, or `self`.
    pub(crate) fn by(process: &str) -> Self {
        let read = |file| std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        let (stat, status) = (read("stat"), read("status"));
        // The name of the program may have blanks.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let peak_mib = peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1_024;
        Self { cpu: (ticks(11) + ticks(12)) / TICKS, peak_mib }
    }
}
