//! How much memory this process may take: of what the machine has, what its control groups let it.
//!
//! See <https://docs.kernel.org/admin-guide/cgroup-v2.html> and
//! <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>.

use std::path::Path;

/// In bytes, by Linux's own account; None where that tells nothing.
pub(super) fn memory_limit() -> Option<u64> {
    limit(|path| std::fs::read_to_string(path).ok())
}

fn limit(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let of_groups = groups.lines().filter_map(limit_file).flat_map(|(root, path, file)| {
        // A group is within all above it. In a container those that are not its own cannot be seen.
        let above: Vec<_> = Path::new(path).ancestors().map(|at| format!("{root}{}/{file}", at.display())).collect();
        above.into_iter().filter_map(|path| read(&path.replace("//", "/"))?.trim().parse().ok()).collect::<Vec<u64>>()
    });
    let of_machine = read("/proc/meminfo").and_then(|told| total(&told));
    of_groups.chain(of_machine).min()
}

/// Of a line of `/proc/self/cgroup` that is about memory: where its groups are, its path there, and the file of the limit.
fn limit_file(line: &str) -> Option<(&'static str, &str, &'static str)> {
    let mut parts = line.splitn(3, ':');
    match (parts.next()?, parts.next()?, parts.next()?) {
        ("0", "", path) => Some(("/sys/fs/cgroup", path, "memory.max")),
        (_, controllers, path) if controllers.split(',').any(|controller| controller == "memory") => {
            Some(("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"))
        }
        _ => None,
    }
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit_of(files: &[(&str, &str)]) -> Option<u64> {
        limit(|path| files.iter().find(|(name, _)| *name == path).map(|(_, content)| (*content).to_owned()))
    }

    #[test]
    fn a_group_may_take_no_more_than_any_above_it() {
        let groups = ("/proc/self/cgroup", "0::/pod/own\n");
        let machine = ("/proc/meminfo", "MemTotal:       8388608 kB\nMemFree: 1 kB\n");
        let own = ("/sys/fs/cgroup/pod/own/memory.max", "max\n");
        let pod = ("/sys/fs/cgroup/pod/memory.max", "536870912\n");
        assert_eq!(limit_of(&[groups, machine, own, pod]), Some(512 << 20));
        assert_eq!(limit_of(&[groups, machine, own]), Some(8 << 30));
    }

    #[test]
    fn in_a_container_the_group_is_the_root() {
        let files = [("/proc/self/cgroup", "0::/\n"), ("/sys/fs/cgroup/memory.max", "1073741824\n")];
        assert_eq!(limit_of(&files), Some(1 << 30));
    }

    #[test]
    fn of_the_first_version_only_the_memory_groups_count() {
        let groups = ("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:hugetlb,memory:/b\n0::/\n");
        let none = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        let own = ("/sys/fs/cgroup/memory/b/memory.limit_in_bytes", "268435456\n");
        assert_eq!(limit_of(&[groups, none, own]), Some(256 << 20));
    }

    #[test]
    fn where_nothing_is_told_nothing_is_known() {
        assert_eq!(limit_of(&[]), None);
        assert_eq!(limit_of(&[("/proc/self/cgroup", "nonsense"), ("/proc/meminfo", "MemTotal: many")]), None);
    }
}
