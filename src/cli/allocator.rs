//! How glibc's allocator treats memory that was freed. By its defaults much of what one batch needed goes back to the system
//! and is fetched anew for the next, page by page, which takes a tenth of the processor time and more.
//!
//! See <https://man7.org/linux/man-pages/man3/mallopt.3.html>.

/// A process that may take less for each processor, in bytes, needs what lies free for other things, such as the system's copies
/// of its files: the more processors, the more heaps keep some.
const ROOM_MIN: u64 = 1 << 30;

/// Has freed memory kept, by a process that may take `room` bytes; None: nobody knows. To be called before other threads are
/// there. Where `GLIBC_TUNABLES` is set, that holds.
pub(super) fn keep_freed_memory(room: Option<u64>) {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    if room.is_none_or(|room| room / processors >= ROOM_MIN) && std::env::var_os("GLIBC_TUNABLES").is_none() {
        of_glibc();
    }
}

/// Other allocators have their own ways.
#[cfg(not(target_env = "gnu"))]
fn of_glibc() {}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "but for the environment, there is no other way to tell it")]
fn of_glibc() {
    use std::ffi::c_int;

    /// Larger pieces come from the system and go back to it, in bytes.
    const FROM_SYSTEM: c_int = 4 << 20;
    /// What may lie free at the end of a heap, in bytes.
    const KEPT: c_int = 64 << 20;

    for (setting, value) in [(libc::M_MMAP_THRESHOLD, FROM_SYSTEM), (libc::M_TRIM_THRESHOLD, KEPT)] {
        // SAFETY: it takes two numbers, and refuses those that it does not know.
        let _ = unsafe { libc::mallopt(setting, value) };
    }
}
