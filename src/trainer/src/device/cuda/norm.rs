//! The kernels of fused batch normalisation on GPUs (shim/norm_kernels.cu): compiled for the
//! present GPU and loaded.
//!
//! NVRTC, NVIDIA's compiler as a library, comes with libtorch's CUDA wheels: a machine with a GPU
//! needs no tool chain, and this program needs no machine code for every kind of GPU. Done once per
//! process and GPU, when a network first asks; a GPU without these kernels uses libtorch's
//! operations. Next: shim/norm_cuda.cpp, which launches the kernels.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::Library;
use tch::Device;

use super::cuda_library::{OpenError, cuda_library};
use crate::device::shared_library::{self, DynamicError, Opened, functions};
use crate::device::shim::{self, ShimError};

const KERNELS: &CStr = as_c(concat!(include_str!("../../../shim/norm_kernels.cu"), "\0"));
/// Header that the kernels include.
const PASS: &CStr = as_c(concat!(include_str!("../../../shim/norm_pass.h"), "\0"));

const fn as_c(text: &str) -> &CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("the source has a NUL in it"),
    }
}

const NVRTC: &str = "libnvrtc.so.13";
const FOLDERS: [&str; 1] = ["nvidia/cu13/lib"];
/// Limit on GPU indices, as in shim/norm_cuda.cpp.
const MAX_GPUS: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum FusedNormError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Nvrtc(#[from] DynamicError),
    #[error("{NVRTC} cannot compile the kernels for {architecture}: {reason}")]
    Compile {
        architecture: String,
        reason: String,
    },
    #[error(transparent)]
    Libtorch(#[from] ShimError),
}

/// Returns true if batch normalisation has its own kernels on a device. The first call loads them;
/// later calls cost nothing. A reason why there are none is logged, once per device.
pub fn fused_norm_available(device: Device) -> bool {
    static OF_GPU: [OnceLock<bool>; MAX_GPUS] = [const { OnceLock::new() }; MAX_GPUS];
    let Device::Cuda(index) = device else {
        return device == Device::Cpu;
    };
    let Some(of_gpu) = OF_GPU.get(index) else {
        return false;
    };
    *of_gpu.get_or_init(|| match load(index) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "cuda:{index}: batch normalisation is libtorch's, which is slower");
            false
        }
    })
}

unsafe extern "C" {
    fn shim_register_norm_on_cuda(kernels: *const c_void);
}

fn load(index: usize) -> Result<(), FusedNormError> {
    let functions = cuda_library()?;
    let mut architecture = 0;
    // SAFETY: writes one number, on success only.
    shim::check(unsafe { (functions.architecture)(index as i8, &mut architecture) })?;
    let code = code_for(architecture)?;
    // SAFETY: complete machine code, as NVRTC made it; the library copies it.
    shim::check(unsafe { (functions.load_norm)(index as i8, code.as_ptr().cast()) })?;
    // SAFETY: the table is part of the cuda_library, which is never closed; threads that read it
    // ask this module first.
    unsafe { shim_register_norm_on_cuda((functions.norm_kernels)()) };
    Ok(())
}

/// Returns the machine code for one kind of GPU, compiled once.
fn code_for(architecture: i32) -> Result<&'static [u8], FusedNormError> {
    static COMPILED: Mutex<BTreeMap<i32, &'static [u8]>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(code) = compiled.get(&architecture) {
        return Ok(code);
    }
    let code: &'static [u8] =
        compile(&Compiler::open()?, &format!("sm_{architecture}"), KERNELS)?.leak();
    compiled.insert(architecture, code);
    Ok(code)
}

/// An `nvrtcProgram`, opaque here.
type Program = *mut c_void;

functions! {
    struct Compiler {
        create = "nvrtcCreateProgram": fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int;
        compile = "nvrtcCompileProgram": fn(Program, c_int, *const *const c_char) -> c_int;
        log_size = "nvrtcGetProgramLogSize": fn(Program, *mut usize) -> c_int;
        log = "nvrtcGetProgramLog": fn(Program, *mut c_char) -> c_int;
        code_size = "nvrtcGetCUBINSize": fn(Program, *mut usize) -> c_int;
        code = "nvrtcGetCUBIN": fn(Program, *mut c_char) -> c_int;
        destroy = "nvrtcDestroyProgram": fn(*mut Program) -> c_int;
        name_of_error = "nvrtcGetErrorString": fn(c_int) -> *const c_char;
    }
}

impl Compiler {
    fn open() -> Result<Self, DynamicError> {
        let opened = shared_library::open(NVRTC, &FOLDERS)?;
        open_builtins_beside(&opened);
        Self::load(&opened)
    }

    fn check(&self, status: c_int) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library has a constant string for every number.
        Err(unsafe { CStr::from_ptr((self.name_of_error)(status)) }
            .to_string_lossy()
            .into_owned())
    }
}

/// Opens NVRTC's builtins, which NVRTC looks up by bare name and not beside itself; it finds a
/// library that is already open. If this fails, NVRTC's log names what is missing.
fn open_builtins_beside(nvrtc: &Opened) {
    let Some(entries) = Path::new(&nvrtc.path)
        .parent()
        .and_then(|folder| std::fs::read_dir(folder).ok())
    else {
        return;
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("libnvrtc-builtins.so.")
        {
            // SAFETY: a library of data, whose initialisers have no precondition.
            std::mem::forget(unsafe { Library::new(entry.path()) });
        }
    }
}

/// Compiles `source` to machine code for an architecture such as `sm_90`.
fn compile(
    compiler: &Compiler,
    architecture: &str,
    source: &CStr,
) -> Result<Vec<u8>, FusedNormError> {
    let failed = |reason| FusedNormError::Compile {
        architecture: architecture.to_owned(),
        reason,
    };
    let (headers, names) = ([PASS.as_ptr()], [c"norm_pass.h".as_ptr()]);
    let mut raw = std::ptr::null_mut();
    // SAFETY: NUL-terminated strings, copied by the library; writes one pointer.
    let created = unsafe {
        let name = c"norm_kernels.cu".as_ptr();
        (compiler.create)(
            &mut raw,
            source.as_ptr(),
            name,
            1,
            headers.as_ptr(),
            names.as_ptr(),
        )
    };
    compiler.check(created).map_err(failed)?;
    let code = compile_program(compiler, raw, architecture);
    // SAFETY: made above, destroyed once.
    unsafe { (compiler.destroy)(&mut raw) };
    code.map_err(failed)
}

fn compile_program(
    compiler: &Compiler,
    program: Program,
    architecture: &str,
) -> Result<Vec<u8>, String> {
    let architecture = CString::new(format!("--gpu-architecture={architecture}"))
        .map_err(|error| error.to_string())?;
    let options = [architecture.as_ptr(), c"--std=c++17".as_ptr()];
    // SAFETY: a live program, and the given number of options.
    let status = unsafe { (compiler.compile)(program, options.len() as c_int, options.as_ptr()) };
    let read = |size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
                bytes: unsafe extern "C" fn(Program, *mut c_char) -> c_int| {
        let mut len = 0;
        // SAFETY: a live program; the first call returns the number of bytes that the second one
        // writes.
        unsafe {
            compiler.check(size(program, &mut len))?;
            let mut buffer = vec![0_u8; len];
            compiler
                .check(bytes(program, buffer.as_mut_ptr().cast()))
                .map(|()| buffer)
        }
    };
    compiler.check(status).map_err(|error| {
        let log = read(compiler.log_size, compiler.log).unwrap_or_default();
        format!(
            "{error}: {}",
            String::from_utf8_lossy(&log).trim_end_matches('\0').trim()
        )
    })?;
    read(compiler.code_size, compiler.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns NVRTC, which needs no GPU.
    fn compiler() -> Compiler {
        Compiler::open().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    #[ignore = "needs the libraries of libtorch for CUDA: make stand-in-gpu"]
    fn the_real_compiler_takes_the_kernels() {
        let compiler = compiler();
        for architecture in ["sm_80", "sm_90"] {
            let code =
                compile(&compiler, architecture, KERNELS).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(&code[..4], b"\x7fELF", "{architecture}");
        }
    }

    #[test]
    #[ignore = "needs the libraries of libtorch for CUDA: make stand-in-gpu"]
    fn messages_of_the_real_compiler_are_in_the_error() {
        let compiler = compiler();
        let wrong = compile(
            &compiler,
            "sm_90",
            c"__global__ void kernel() { no_such_thing(); }",
        )
        .unwrap_err()
        .to_string();
        assert!(
            wrong.contains("for sm_90") && wrong.contains("no_such_thing"),
            "{wrong}"
        );
        let unknown = compile(&compiler, "sm_1", KERNELS).unwrap_err().to_string();
        assert!(
            unknown.contains("for sm_1") && unknown.contains("gpu-architecture"),
            "{unknown}"
        );
    }

    #[test]
    fn devices_other_than_gpus_are_not_queried() {
        assert!(fused_norm_available(Device::Cpu) && !fused_norm_available(Device::Vulkan));
        assert!(!fused_norm_available(Device::Cuda(MAX_GPUS)));
    }

    #[test]
    fn an_absent_gpu_has_none_for_a_known_reason() {
        let absent = crate::device::num_gpus();
        assert!(!fused_norm_available(Device::Cuda(absent)));
        let error = load(absent).unwrap_err().to_string();
        let reasons = ["libtorch_cuda.so", "nvidia-cuda-crt", "CUDA"];
        assert!(
            reasons.iter().any(|reason| error.contains(reason)),
            "{error}"
        );
    }
}
