//! TensorRT's log, given to `log` under the target `tensorrt`.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::catch_unwind;

use super::sys::{Family, InterfaceInfo};

thread_local! {
    /// The last thing that TensorRT called an error on this thread: the reason of the call that fails next. What its own
    /// threads say is in the log alone.
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// An `ILogger`: its first word points to a table of methods. It lives as long as the process, as TensorRT asks.
#[repr(C)]
pub struct Logger {
    methods: *const Methods,
}

// SAFETY: it is never written, and its methods may be called from any thread.
unsafe impl Sync for Logger {}

#[repr(C)]
union Methods {
    v8: MethodsV8,
    v11: MethodsV11,
}

// SAFETY: function pointers are never written.
unsafe impl Sync for Methods {}

/// `ILogger` up to TensorRT 10.
#[repr(C)]
#[derive(Clone, Copy)]
struct MethodsV8 {
    log: extern "C" fn(*mut c_void, i32, *const c_char),
    complete_destructor: extern "C" fn(*mut c_void),
    deleting_destructor: extern "C" fn(*mut c_void),
}

/// `ILogger` since TensorRT 11, where it is an `IVersionedInterface`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MethodsV11 {
    language: extern "C" fn(*mut c_void) -> i32,
    info: extern "C" fn(*mut c_void) -> InterfaceInfo,
    complete_destructor: extern "C" fn(*mut c_void),
    deleting_destructor: extern "C" fn(*mut c_void),
    log: extern "C" fn(*mut c_void, i32, *const c_char),
}

static METHODS_V8: Methods = Methods {
    v8: MethodsV8 {
        log,
        complete_destructor: nothing,
        deleting_destructor: nothing,
    },
};
static METHODS_V11: Methods = Methods {
    v11: MethodsV11 {
        language,
        info,
        complete_destructor: nothing,
        deleting_destructor: nothing,
        log,
    },
};
static LOGGER_V8: Logger = Logger {
    methods: &raw const METHODS_V8,
};
static LOGGER_V11: Logger = Logger {
    methods: &raw const METHODS_V11,
};

/// The logger for a version's factories.
pub fn logger(family: Family) -> *mut c_void {
    let logger = match family {
        Family::V8 | Family::V10 => &raw const LOGGER_V8,
        Family::V11 | Family::Rtx => &raw const LOGGER_V11,
    };
    logger.cast_mut().cast()
}

/// Takes this thread's last error, if there was one since it was last taken.
pub fn take_error() -> Option<String> {
    Some(LAST_ERROR.take()).filter(|error| !error.is_empty())
}

extern "C" fn log(_this: *mut c_void, severity: i32, message: *const c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: TensorRT passes a C string that lives during the call.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // A logger that panics must not unwind into TensorRT.
    let _ = catch_unwind(|| {
        let level = match severity {
            ..=1 => log::Level::Error,
            2 => log::Level::Warn,
            3 => log::Level::Debug,
            _ => log::Level::Trace,
        };
        if level == log::Level::Error {
            LAST_ERROR.replace(message.trim().to_owned());
        }
        log::log!(target: "tensorrt", level, "{message}");
    });
}

extern "C" fn nothing(_this: *mut c_void) {}

/// `APILanguage::kCPP`: the object follows the C++ ABI.
extern "C" fn language(_this: *mut c_void) -> i32 {
    0
}

extern "C" fn info(_this: *mut c_void) -> InterfaceInfo {
    InterfaceInfo {
        kind: c"ILogger".as_ptr(),
        major: 1,
        minor: 0,
    }
}
