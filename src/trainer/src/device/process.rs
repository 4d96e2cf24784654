//! The process: allocator settings, threads, the private output channel, and facts about the
//! machine.
//!
//! Everything here is done once, at start, by command_line.rs, or reads /proc. Knows nothing of
//! trials. Next: device_set.rs.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Prints a text for people or programs. A closed reader (`| head`) is not an error.
pub fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Keeps freed memory in the process: the next step reuses a step's activations, so returning them
/// to the kernel and faulting them in again is wasted work (measured in bench/results/epyc.md,
/// ablation). libtorch allocates with C++'s new and malloc, so this must be set in glibc; a Rust
/// allocator would not affect it.
pub fn keep_freed_memory() {
    const TOP_PAD_BYTES: i32 = 64 << 20;
    // SAFETY: mallopt only sets parameters of glibc's allocator; called before any other thread
    // exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, TOP_PAD_BYTES);
    }
}

/// Applies the settings that glibc itself reaches in a process that frees large blocks: for
/// comparison only.
pub fn give_freed_memory_back() {
    const LARGEST_OWN_BLOCK: i32 = 32 << 20;
    // SAFETY: mallopt only sets parameters of glibc's allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 65536);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_OWN_BLOCK);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGEST_OWN_BLOCK);
        libc::mallopt(libc::M_TOP_PAD, 0);
    }
}

/// Fixes cuBLAS's workspace: with a size set before first use, cuBLAS gives the same bits in every
/// run.
pub fn fix_cublas_workspace() {
    // SAFETY: changes the environment; called before any other thread exists.
    unsafe { std::env::set_var("CUBLAS_WORKSPACE_CONFIG", ":4096:8") };
}

/// Reserves stdout for frames: anything else that prints there (libtorch, a library) goes to stderr
/// from now on.
pub fn private_stdout() -> io::Result<File> {
    let stdout = io::stdout().as_raw_fd();
    // SAFETY: duplicates a descriptor that stays open; the result is checked and has no other
    // owner.
    let duplicate = unsafe { libc::fcntl(stdout, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that only this function owns.
    let owned = unsafe { OwnedFd::from_raw_fd(duplicate) };
    // SAFETY: makes descriptor 1 an alias of stderr; both stay open for the whole life of the
    // process.
    if unsafe { libc::dup2(io::stderr().as_raw_fd(), stdout) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(File::from(owned))
}

/// Asks the kernel for SIGKILL when the worker dies, so that even a stopped or hung trainer ends at
/// once. On other systems the process ends itself at the end of stdin. A worker starts trainers
/// from one thread that lives as long as the worker, because the kernel's signal is bound to the
/// death of that thread.
///
/// The signal comes only for a death after the call, so this ends the process if the worker is
/// already dead: its pipe to stdin then has no writer.
pub fn die_with_worker() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: only sets an attribute of this process.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let mut stdin = libc::pollfd {
        fd: io::stdin().as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: passes one descriptor record, which outlives the call; the call does not wait.
    let polled = unsafe { libc::poll(&mut stdin, 1, 0) };
    if polled < 0 {
        return Err(io::Error::last_os_error());
    }
    if stdin.revents & libc::POLLHUP != 0 {
        end_now(0);
    }
    Ok(())
}

/// Ends the process without running destructors: another thread may be in the middle of a step, and
/// libtorch's globals must not disappear under it.
pub fn end_now(code: i32) -> ! {
    // SAFETY: _exit has no requirements; stderr is not buffered, and stdout's frames are flushed
    // one by one.
    unsafe { libc::_exit(code) }
}

/// Returns the bytes of some floats, in the machine's order (little-endian on all that libtorch's
/// wheels support).
pub fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: any f32 is four initialised bytes, and u8 has no alignment requirement.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

/// Returns the names of the processor's instruction sets, as listed by the kernel.
pub fn cpu_flags() -> Vec<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    flags.map_or_else(Vec::new, |(_, flags)| {
        flags.split_whitespace().map(str::to_owned).collect()
    })
}

/// Returns freed memory to the kernel between trials of different size, so that one's memory is not
/// in the next's peak.
pub fn give_back_freed_memory() {
    // SAFETY: takes glibc's own locks; blocks in use are not touched.
    unsafe { libc::malloc_trim(0) };
}

/// Resets the peak: the next reading covers only what is resident now or later. A kernel that
/// refuses keeps the old peak.
pub fn reset_peak_memory() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Returns the largest resident memory since the last reset.
pub fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}

/// Returns the processor's model name, such as `AMD EPYC`.
pub fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

pub fn host_name() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

/// Returns the CPU seconds of the calling thread.
pub fn thread_cpu_seconds() -> f64 {
    seconds_of(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Returns the CPU seconds of all threads of this process.
pub fn cpu_seconds() -> f64 {
    seconds_of(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn seconds_of(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one record; the clocks that are asked for exist on every Linux.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Returns the number of cores that this process may use.
pub fn num_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
