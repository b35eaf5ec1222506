//! TensorRT's binary interface: versions, slots, layouts, and calls through interface tables.
//!
//! TensorRT's interfaces are C++ classes without data of their own. An object `I*` is two words, `{ table, implementation }`;
//! its inline methods call the virtual methods of the implementation (`NvInferImpl.h`). In the Itanium C++ ABI, which Linux
//! has on x86-64 and aarch64, a virtual method is a function pointer at a fixed slot of the table that the object's first
//! word points to, called with the object as first argument. The slots come from the headers
//! (`cargo xtask tensorrt-slots`) and are the same in all versions of one major. The ONNX parser's two interfaces are
//! plain virtual classes: their methods lie in the object's own table.
//!
//! A wrong slot is undefined behaviour. So the table is chosen by the version that the library itself reports, versions
//! whose headers were not read are refused, and [`super::Library::open`] looks at what an empty network says first.

use std::ffi::{c_char, c_void};
use std::fmt;
use std::ptr::NonNull;

mod v10;
mod v11;
mod v8;

/// Slots in the tables of the implementations (of the objects themselves for the parser and for destruction), and values
/// of enumerations that move. One constant of this type per major version, in the files beside this one.
#[derive(Debug, Clone, Copy)]
pub struct Slots {
    pub object_destroy: usize,
    pub builder_dla_cores: usize,
    pub builder_create_config: usize,
    pub builder_create_network: usize,
    pub builder_create_profile: usize,
    pub builder_build: usize,
    pub network_layers: usize,
    pub network_inputs: usize,
    pub network_input: usize,
    pub network_outputs: usize,
    pub network_output: usize,
    pub tensor_name: usize,
    pub tensor_dimensions: usize,
    pub tensor_type: usize,
    pub config_clear_flag: usize,
    pub config_set_flag: usize,
    pub config_set_dla_core: usize,
    pub config_set_device: usize,
    pub config_add_profile: usize,
    pub config_set_pool: usize,
    pub profile_set_dimensions: usize,
    pub profile_is_valid: usize,
    pub memory_data: usize,
    pub memory_size: usize,
    pub runtime_deserialize: usize,
    pub runtime_set_dla_core: usize,
    pub engine_tensors: usize,
    pub engine_tensor_name: usize,
    pub engine_tensor_shape: usize,
    pub engine_tensor_type: usize,
    pub engine_tensor_mode: usize,
    pub engine_profiles: usize,
    pub engine_create_context: usize,
    pub context_set_profile: usize,
    pub context_set_shape: usize,
    pub context_shape: usize,
    pub context_set_address: usize,
    pub context_enqueue: usize,
    pub parser_parse: usize,
    pub parser_errors: usize,
    pub parser_error: usize,
    pub parser_destroy: usize,
    pub parser_set_flag: Option<usize>,
    pub error_code: usize,
    pub error_description: usize,
    pub error_node: usize,
    pub flag_fp16: Option<i32>,
    pub flag_int8: Option<i32>,
    pub flag_gpu_fallback: i32,
    pub flag_tf32: i32,
}

/// Versions that share one binary interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// TensorRT 8.5 and 8.6: JetPack 5.1 and 6.0. Networks are weakly typed.
    V8,
    /// TensorRT 10: JetPack 6.1 and later. Networks are strongly typed.
    V10,
    /// TensorRT 11.
    V11,
    /// TensorRT-RTX 1.5 and later: TensorRT 11's interfaces, for desktop GPUs. It builds without a GPU, so the tests
    /// build every network with it; no Jetson has it.
    Rtx,
}

/// A version as the library reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Which interface.
    pub family: Family,
    /// Major, minor, patch.
    pub numbers: [i32; 3],
}

impl Version {
    /// What `getInferLibVersion` gives: `major * 1000 + minor * 100 + patch` up to 8.x, `major * 10000 + minor * 100 +
    /// patch` later and for TensorRT-RTX (`NvInferVersion.h`). `None` for a version whose interface is not known.
    pub fn decode(reported: i32) -> Option<Self> {
        let numbers = match reported {
            ..0 => return None,
            0..10_000 => [reported / 1000, reported / 100 % 10, reported % 100],
            _ => [reported / 10_000, reported / 100 % 100, reported % 100],
        };
        let family = match (reported, numbers) {
            (..10_000, [8, 5 | 6, _]) => Family::V8,
            (10_500..20_000, [1, ..]) => Family::Rtx,
            (100_000.., [10, _, _]) => Family::V10,
            (100_000.., [11, _, _]) => Family::V11,
            _ => return None,
        };
        Some(Self { family, numbers })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        let name = if self.family == Family::Rtx {
            "TensorRT-RTX"
        } else {
            "TensorRT"
        };
        write!(f, "{name} {major}.{minor}.{patch}")
    }
}

impl Family {
    /// The slots.
    pub const fn slots(self) -> &'static Slots {
        match self {
            Self::V8 => &v8::SLOTS,
            Self::V10 => &v10::SLOTS,
            Self::V11 | Self::Rtx => &v11::SLOTS,
        }
    }

    /// Flags for a network of explicit batch size whose types are those of the ONNX file, as far as the version can:
    /// `1 << kEXPLICIT_BATCH` in 8.x, `1 << kSTRONGLY_TYPED` in 10.x, nothing since.
    pub const fn network_flags(self) -> u32 {
        match self {
            Self::V8 => 1,
            Self::V10 => 2,
            Self::V11 | Self::Rtx => 0,
        }
    }
}

/// `DataType::kFLOAT`.
pub const FLOAT: i32 = 0;
/// `TensorIOMode::kINPUT`.
pub const INPUT: i32 = 1;
/// `OptProfileSelector::kMIN`, `kOPT`, `kMAX`.
pub const SELECTORS: [i32; 3] = [0, 1, 2];
/// `DeviceType::kDLA`.
pub const DLA: i32 = 1;
/// `MemoryPoolType::kWORKSPACE`.
pub const WORKSPACE: i32 = 0;
/// `OnnxParserFlag::kNATIVE_INSTANCENORM`.
pub const NATIVE_INSTANCENORM: i32 = 0;

/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;

/// `Dims` of TensorRT 8 (`Dims32`).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Dims32 {
    count: i32,
    sizes: [i32; MAX_DIMS],
}

/// `Dims` since TensorRT 10 (`Dims64`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims64 {
    count: i32,
    sizes: [i64; MAX_DIMS],
}

const _: () = assert!(size_of::<Dims32>() == 36 && size_of::<Dims64>() == 72);

impl Dims64 {
    /// `None` when there are more than eight, or one is too large for a version's integers.
    pub fn new<T: TryInto<i32>>(sizes: impl IntoIterator<Item = T>) -> Option<Self> {
        let mut dims = Self {
            count: 0,
            sizes: [0; MAX_DIMS],
        };
        for size in sizes {
            *dims.sizes.get_mut(dims.count as usize)? = i64::from(size.try_into().ok()?);
            dims.count += 1;
        }
        Some(dims)
    }

    /// The sizes; -1 for one that is chosen at run time. Empty when TensorRT has no answer.
    pub fn sizes(&self) -> &[i64] {
        let count = usize::try_from(self.count).unwrap_or(0);
        self.sizes.get(..count).unwrap_or(&[])
    }

    /// For TensorRT 8. Sizes that [`Dims64::new`] accepts fit.
    pub fn narrow(&self) -> Dims32 {
        Dims32 {
            count: self.count,
            sizes: self.sizes.map(|size| size as i32),
        }
    }
}

impl From<Dims32> for Dims64 {
    fn from(dims: Dims32) -> Self {
        Self {
            count: dims.count,
            sizes: dims.sizes.map(Into::into),
        }
    }
}

/// `InterfaceInfo`, what `ILogger::getInterfaceInfo` gives since TensorRT 11.
#[repr(C)]
pub struct InterfaceInfo {
    /// Name of the interface.
    pub kind: *const c_char,
    /// Its major version.
    pub major: i32,
    /// Its minor version.
    pub minor: i32,
}

/// A pointer to an object of TensorRT: what is passed as an argument and returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Object(NonNull<c_void>);

/// What a method is called on: an object whose first word points to a table of methods.
#[derive(Debug, Clone, Copy)]
pub struct Receiver {
    /// The first argument.
    pub this: *mut c_void,
    methods: *const *const c_void,
}

impl Object {
    /// `None` for null, with which TensorRT says no.
    pub fn new(pointer: *mut c_void) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    /// The pointer.
    pub fn as_ptr(self) -> *mut c_void {
        self.0.as_ptr()
    }

    /// The object itself: for the parser's interfaces, and for every object's destructor.
    ///
    /// # Safety
    /// The object is alive.
    pub unsafe fn itself(self) -> Receiver {
        let this = self.as_ptr();
        Receiver {
            this,
            // SAFETY: a live C++ object with virtual methods begins with the pointer to its table.
            methods: unsafe { *this.cast() },
        }
    }

    /// Its implementation, on which the methods of all interfaces but the parser's are called.
    ///
    /// # Safety
    /// The object is alive and not the parser's.
    pub unsafe fn implementation(self) -> Receiver {
        // SAFETY: such an object is two words, of which the second points to its implementation, which lives as long.
        let this: *mut c_void = unsafe { *self.as_ptr().cast::<*mut c_void>().add(1) };
        Receiver {
            this,
            // SAFETY: the implementation has virtual methods too.
            methods: unsafe { *this.cast() },
        }
    }
}

impl Receiver {
    /// The method at a slot.
    ///
    /// # Safety
    /// `F` is the function pointer type of the method at that slot.
    pub unsafe fn method<F: Copy>(self, slot: usize) -> F {
        const { assert!(size_of::<F>() == size_of::<*const c_void>()) };
        // SAFETY: the caller knows the table, and a function pointer is as large as any pointer.
        unsafe { *self.methods.add(slot).cast::<F>() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (reported, wanted) in [
            (8502, Some((Family::V8, "TensorRT 8.5.2"))),
            (8600, Some((Family::V8, "TensorRT 8.6.0"))),
            (100_300, Some((Family::V10, "TensorRT 10.3.0"))),
            (101_303, Some((Family::V10, "TensorRT 10.13.3"))),
            (110_401, Some((Family::V11, "TensorRT 11.4.1"))),
            (10_701, Some((Family::Rtx, "TensorRT-RTX 1.7.1"))),
            (7103, None),
            (8401, None),
            (8700, None),
            (9300, None),
            (10_300, None),
            (90_300, None),
            (120_000, None),
            (i32::MAX, None),
            (0, None),
            (-8502, None),
        ] {
            let decoded = Version::decode(reported);
            let got = decoded.map(|version| (version.family, version.to_string()));
            assert_eq!(
                got.as_ref().map(|(family, name)| (*family, name.as_str())),
                wanted,
                "{reported}"
            );
        }
    }

    #[test]
    fn dimensions() {
        let dims = Dims64::new([1, 3, 128, 128]).unwrap();
        assert_eq!(dims.sizes(), [1, 3, 128, 128]);
        assert_eq!(Dims64::from(dims.narrow()), dims);
        assert!(Dims64::new([1usize; 9]).is_none());
        assert!(Dims64::new([1usize << 40]).is_none());
        let no_answer = Dims64 {
            count: -1,
            sizes: [0; MAX_DIMS],
        };
        assert!(no_answer.sizes().is_empty());
    }
}
