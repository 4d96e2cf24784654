//! The thirteen functions of libnccl.so.2 that are used, from the copy that comes with libtorch.
//!
//! Signatures and numbers are those of nccl.h 2.28.9. Refuses versions before 2.14, which cannot
//! make non-blocking communicators, and other major versions. Next: gpus.rs, the only user.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::offset_of;
use std::ptr;

use tch::Kind;

use super::backend::{CommunicatorState, GROUP_ID_BYTES, GroupId, GroupPart};
use crate::device::shared_library::{DynamicError, functions, open};

const NAME: &str = "libnccl.so.2";
const FOLDER: &str = "nvidia/nccl/lib";
/// Oldest supported version: the first with `ncclCommInitRankConfig` and `ncclCommFinalize`.
const OLDEST: Version = Version {
    major: 2,
    minor: 14,
    patch: 0,
};

const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
const SUM: c_int = 0;

/// An `ncclComm_t`.
pub type Raw = *mut c_void;

/// A `cudaStream_t`.
pub type Stream = *mut c_void;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId([c_char; GROUP_ID_BYTES]);

/// `ncclConfig_t` of 2.14. The library copies `size` bytes and uses its defaults for fields that
/// `version` lacked, so this short form works with every later version.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

// the library reads as many bytes of ncclConfig_t as `size` names; checked against nccl.h of 2.14
const _: () = assert!(
    size_of::<Config>() == 24 && align_of::<Config>() == 8 && offset_of!(Config, blocking) == 16
);
const _: () = assert!(size_of::<UniqueId>() == 128 && align_of::<UniqueId>() == 1);

const CONFIG: Config = Config {
    size: size_of::<Config>(),
    magic: 0xcafe_beef,
    version: OLDEST.code(),
    blocking: 0,
};

functions! {
    struct Functions {
        get_version = "ncclGetVersion": fn(*mut c_int) -> c_int;
        get_unique_id = "ncclGetUniqueId": fn(*mut UniqueId) -> c_int;
        comm_init_rank_config = "ncclCommInitRankConfig": fn(*mut Raw, c_int, UniqueId, c_int, *mut Config) -> c_int;
        comm_get_async_error = "ncclCommGetAsyncError": fn(Raw, *mut c_int) -> c_int;
        comm_finalize = "ncclCommFinalize": fn(Raw) -> c_int;
        comm_destroy = "ncclCommDestroy": fn(Raw) -> c_int;
        comm_abort = "ncclCommAbort": fn(Raw) -> c_int;
        all_reduce = "ncclAllReduce": fn(*const c_void, *mut c_void, usize, c_int, c_int, Raw, *mut c_void) -> c_int;
        broadcast = "ncclBroadcast": fn(*const c_void, *mut c_void, usize, c_int, c_int, Raw, *mut c_void) -> c_int;
        group_start = "ncclGroupStart": fn() -> c_int;
        group_end = "ncclGroupEnd": fn() -> c_int;
        get_error_string = "ncclGetErrorString": fn(c_int) -> *const c_char;
        get_last_error = "ncclGetLastError": fn(Raw) -> *const c_char;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// Returns NCCL_VERSION of nccl.h for 2.9 and later.
    const fn code(self) -> c_uint {
        self.major * 10_000 + self.minor * 100 + self.patch
    }

    /// Returns the version of a code; codes before 2.9 have two digits less.
    pub fn of_code(code: u32) -> Self {
        let major_unit = if code < 10_000 { 1000 } else { 10_000 };
        Self {
            major: code / major_unit,
            minor: code % major_unit / 100,
            patch: code % 100,
        }
    }

    /// Returns an error with the reason if this version cannot be used.
    pub fn check(self) -> Result<(), String> {
        if self.major == OLDEST.major && self >= OLDEST {
            return Ok(());
        }
        Err(format!(
            "this is NCCL {self}; a version from {OLDEST} on and below 3 is needed, as torch 2.11 brings it"
        ))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error(transparent)]
    Dynamic(#[from] DynamicError),
    #[error("{path}: {reason}")]
    Version { path: String, reason: String },
}

pub struct Library {
    functions: Functions,
    pub version: Version,
    pub path: String,
}

impl Library {
    pub fn open() -> Result<Self, LibraryError> {
        let opened = open(NAME, &[FOLDER])?;
        let functions = Functions::load(&opened)?;
        let mut code = 0;
        // SAFETY: writes one int.
        let result = unsafe { (functions.get_version)(&mut code) };
        let version = Version::of_code(u32::try_from(code).unwrap_or(0));
        let refused = |reason| LibraryError::Version {
            path: opened.path.clone(),
            reason,
        };
        if result != SUCCESS {
            return Err(refused(format!(
                "its version cannot be read (error {result})"
            )));
        }
        version.check().map_err(refused)?;
        Ok(Self {
            functions,
            version,
            path: opened.path.clone(),
        })
    }

    /// Converts a result; "in progress" is no error, because communicators are non-blocking.
    fn check(&self, result: c_int, communicator: Raw) -> Result<(), String> {
        if result == SUCCESS || result == IN_PROGRESS {
            Ok(())
        } else {
            Err(self.describe(result, communicator))
        }
    }

    pub fn describe(&self, result: c_int, communicator: Raw) -> String {
        let text = |pointer: *const c_char| {
            if pointer.is_null() {
                return String::new();
            }
            // SAFETY: both functions return a C string that the library keeps.
            unsafe { CStr::from_ptr(pointer) }
                .to_string_lossy()
                .trim()
                .to_owned()
        };
        // SAFETY: the first takes any number; the second takes any communicator, or null for the
        // process.
        let (name, last) = unsafe {
            (
                text((self.functions.get_error_string)(result)),
                text((self.functions.get_last_error)(communicator)),
            )
        };
        if last.is_empty() {
            format!("NCCL: {name}")
        } else {
            format!("NCCL: {name}: {last}")
        }
    }

    pub fn unique_id(&self) -> Result<GroupId, String> {
        let mut id = UniqueId([0; GROUP_ID_BYTES]);
        // SAFETY: writes 128 bytes.
        let result = unsafe { (self.functions.get_unique_id)(&mut id) };
        self.check(result, ptr::null_mut())
            .map(|()| GroupId(id.0.map(|byte| byte as u8)))
    }

    /// Starts making the communicators of this process's ranks; `select` makes the device of the
    /// n-th rank current.
    pub fn start(
        &self,
        part: &GroupPart,
        select: impl Fn(usize) -> Result<(), String>,
    ) -> Result<Vec<Raw>, String> {
        let id = part.id.map_or_else(|| self.unique_id(), Ok)?;
        let id = UniqueId(id.0.map(|byte| byte as c_char));
        let ranks = c_int::try_from(part.size)
            .map_err(|_| format!("{} replicas are too many", part.size))?;
        let mut communicators = vec![ptr::null_mut(); part.devices.len()];
        // SAFETY: no argument. The group lets one thread start all ranks, which otherwise wait for
        // each other.
        self.check(unsafe { (self.functions.group_start)() }, ptr::null_mut())?;
        let mut begun = Ok(());
        for (place, communicator) in communicators.iter_mut().enumerate() {
            begun = begun.and_then(|()| select(place)).and_then(|()| {
                let rank = (part.first_rank + place) as c_int;
                let mut config = CONFIG;
                let config = ptr::from_mut(&mut config);
                // SAFETY: NCCL reads the config within the call; the handle's place lives until the
                // group's end below.
                let result = unsafe {
                    (self.functions.comm_init_rank_config)(communicator, ranks, id, rank, config)
                };
                self.check(result, ptr::null_mut())
            });
        }
        // SAFETY: ends the group that was started above, also after an error.
        let ended = self.check(unsafe { (self.functions.group_end)() }, ptr::null_mut());
        if let Err(reason) = begun.and(ended) {
            communicators
                .into_iter()
                .filter(|communicator| !communicator.is_null())
                .for_each(|raw| self.abort(raw));
            return Err(reason);
        }
        Ok(communicators)
    }

    pub fn state(&self, communicator: Raw) -> CommunicatorState {
        let mut state = SUCCESS;
        // SAFETY: the communicator comes from `start` and is not yet aborted or destroyed; writes
        // one int.
        let result = unsafe { (self.functions.comm_get_async_error)(communicator, &mut state) };
        match (result, state) {
            (SUCCESS, SUCCESS) => CommunicatorState::Ready,
            (SUCCESS, IN_PROGRESS) => CommunicatorState::InProgress,
            (SUCCESS, error) | (error, _) => {
                CommunicatorState::Failed(self.describe(error, communicator))
            }
        }
    }

    /// # Safety
    /// `data` must hold `count` elements of `kind` on the communicator's device until the device is
    /// done; `stream` must be a stream of that device.
    pub unsafe fn all_reduce(
        &self,
        raw: Raw,
        data: *mut c_void,
        count: usize,
        kind: Kind,
        stream: Stream,
    ) -> Result<(), String> {
        let kind = data_type(kind)?;
        // SAFETY: guaranteed by the caller.
        let result =
            unsafe { (self.functions.all_reduce)(data, data, count, kind, SUM, raw, stream) };
        self.check(result, raw)
    }

    /// Queues a broadcast from rank 0.
    ///
    /// # Safety
    /// The same as for `all_reduce`.
    pub unsafe fn broadcast(
        &self,
        raw: Raw,
        data: *mut c_void,
        count: usize,
        kind: Kind,
        stream: Stream,
    ) -> Result<(), String> {
        let kind = data_type(kind)?;
        // SAFETY: guaranteed by the caller.
        let result = unsafe { (self.functions.broadcast)(data, data, count, kind, 0, raw, stream) };
        self.check(result, raw)
    }

    pub fn abort(&self, communicator: Raw) {
        // SAFETY: owners give up their communicator with this call.
        let result = unsafe { (self.functions.comm_abort)(communicator) };
        if let Err(reason) = self.check(result, ptr::null_mut()) {
            tracing::warn!(reason, "a communicator could not be aborted");
        }
    }

    /// Starts to flush the communicator; `destroy` may follow once the state is ready.
    pub fn finalize(&self, communicator: Raw) -> Result<(), String> {
        // SAFETY: the communicator comes from `start` and is not yet aborted or destroyed.
        self.check(
            unsafe { (self.functions.comm_finalize)(communicator) },
            communicator,
        )
    }

    pub fn destroy(&self, communicator: Raw) {
        // SAFETY: owners give up their communicator with this call.
        let result = unsafe { (self.functions.comm_destroy)(communicator) };
        if let Err(reason) = self.check(result, ptr::null_mut()) {
            tracing::warn!(reason, "a communicator could not be destroyed");
        }
    }
}

/// Returns the `ncclDataType_t` of a dtype.
fn data_type(kind: Kind) -> Result<c_int, String> {
    match kind {
        Kind::Uint8 => Ok(1),
        Kind::Int => Ok(2),
        Kind::Int64 => Ok(4),
        Kind::Half => Ok(6),
        Kind::Float => Ok(7),
        Kind::Double => Ok(8),
        Kind::BFloat16 => Ok(9),
        other => Err(format!("NCCL has no data type for {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_both_kinds_of_code() {
        let version = |major, minor, patch| Version {
            major,
            minor,
            patch,
        };
        assert_eq!(Version::of_code(22_809), version(2, 28, 9));
        assert_eq!(Version::of_code(21_400), version(2, 14, 0));
        assert_eq!(Version::of_code(2708), version(2, 7, 8));
        assert_eq!(version(2, 28, 9).code(), 22_809);
    }

    #[test]
    fn old_and_foreign_versions_are_refused() {
        for (code, usable) in [
            (22_809, true),
            (21_400, true),
            (23_007, true),
            (21_304, false),
            (2708, false),
            (30_000, false),
        ] {
            assert_eq!(Version::of_code(code).check().is_ok(), usable, "{code}");
        }
        let reason = Version::of_code(2708).check().unwrap_err();
        assert!(
            reason.starts_with("this is NCCL 2.7.8; a version from 2.14.0 on"),
            "{reason}"
        );
    }

    #[test]
    fn the_version_of_the_config_is_the_oldest_one() {
        assert_eq!(CONFIG.version, 21_400);
    }

    /// Needs no GPU.
    #[test]
    #[ignore = "needs the libraries of libtorch for CUDA: make stand-in-gpu"]
    fn the_real_library_is_complete() {
        let library = Library::open().unwrap_or_else(|error| panic!("{error}"));
        assert!(
            library.version >= OLDEST,
            "{} has version {}",
            library.path,
            library.version
        );
        assert_eq!(
            library
                .describe(IN_PROGRESS, ptr::null_mut())
                .split(": ")
                .nth(1),
            Some("NCCL operation in progress")
        );
        let (one, other) = (library.unique_id().unwrap(), library.unique_id().unwrap());
        assert!(
            one.0.iter().any(|&byte| byte != 0) && one != other,
            "two ids of one process differ"
        );
    }

    #[test]
    fn data_types_are_those_of_the_header() {
        assert_eq!(data_type(Kind::Float), Ok(7));
        assert_eq!(data_type(Kind::BFloat16), Ok(9));
        assert!(data_type(Kind::Bool).is_err());
    }
}
