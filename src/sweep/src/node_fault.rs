//! Errors that are the node's fault: a full or read-only disk, no memory, descriptors or processes
//! left, a device or a network file system that does not respond. The operation can succeed on
//! another node, or later on the same one.
//!
//! This is the only place that classifies them; trainer and worker report them as
//! `FailureClass::Node`. It considers errors of the operating system alone: a missing or malformed
//! file is not the fault of a node.

use std::error::Error;
use std::io;

/// Error numbers, equal on every Linux, with libc's messages for those that libraries report as
/// text.
const NODE_ERRORS: [(i32, &str); 13] = [
    (5, "Input/output error"),
    // a thread or a process that cannot be started
    (11, "Resource temporarily unavailable"),
    (12, "Cannot allocate memory"),
    (23, "Too many open files in system"),
    (24, "Too many open files"),
    (28, "No space left on device"),
    (30, "Read-only file system"),
    (107, "Transport endpoint is not connected"),
    (110, "Connection timed out"),
    (112, "Host is down"),
    (116, "Stale file handle"),
    (121, "Remote I/O error"),
    (122, "Disk quota exceeded"),
];

/// Exhausted resources: the file that was being read is not at fault, and can be read later.
const EXHAUSTED: [i32; 4] = [11, 12, 23, 24];

pub fn is_of_node(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|number| NODE_ERRORS.iter().any(|(known, _)| *known == number))
}

/// Returns true if memory, descriptors or processes are exhausted, which has nothing to do with the
/// file being read.
pub fn is_exhaustion(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|number| EXHAUSTED.contains(&number))
}

/// Returns true if the error, or one of its causes, is such an error of the operating system.
pub fn is_cause_of(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(is_of_node) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Returns true if the text of a panic or of a C++ exception names such an error.
pub fn is_named_in(text: &str) -> bool {
    NODE_ERRORS.iter().any(|(number, name)| {
        text.contains(name)
            || text.contains(&format!("(os error {number})"))
            || text.contains(&format!("Os {{ code: {number}, "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write a file")]
    struct Wrapped(#[source] io::Error);

    #[test]
    fn node_faults_are_distinguished_from_bad_input() {
        // ENOSPC, EDQUOT, EROFS, EMFILE, ENFILE, ENOMEM, EIO
        for number in [28, 122, 30, 24, 23, 12, 5] {
            let error = io::Error::from_raw_os_error(number);
            assert!(is_of_node(&error), "{error}");
            assert!(
                is_named_in(&error.to_string()) && is_named_in(&format!("{error:?}")),
                "{error:?}"
            );
            assert!(is_cause_of(&Wrapped(error)));
        }
        // ENOENT, EACCES, EISDIR, EINVAL
        for number in [2, 13, 21, 22] {
            let error = io::Error::from_raw_os_error(number);
            assert!(
                !is_of_node(&error) && !is_named_in(&format!("{error:?}: {error}")),
                "{error}"
            );
            assert!(!is_cause_of(&Wrapped(error)));
        }
        assert!(!is_of_node(&io::Error::other("a full disk")));
    }

    #[test]
    fn a_thread_that_cannot_be_started_is_known_by_its_panic() {
        let start = || -> io::Result<()> { Err(io::Error::from_raw_os_error(11)) };
        let panic = std::panic::catch_unwind(|| start().expect("the system can start a thread"))
            .unwrap_err();
        assert!(is_named_in(panic.downcast_ref::<String>().unwrap()));
    }

    #[test]
    fn only_exhausted_resources_are_no_fault_of_a_file() {
        assert!(is_exhaustion(&io::Error::from_raw_os_error(24)));
        assert!(!is_exhaustion(&io::Error::from_raw_os_error(5)));
    }
}
