//! What the suite needs from a place under test.

use kernels::Kernels;
use kernels::cpu::Cpu;

use super::picture::Picture;

/// A place with its way to lend frames: one implementation per place, nothing else in the suite knows places.
pub trait Place {
    /// The kernels under test.
    type Kernels: Kernels;

    /// Fresh kernels.
    fn kernels() -> Self::Kernels;

    /// Lends `picture` as a frame of the place and brings what `work` did to it back, padding included.
    fn lend<R>(
        kernels: &mut Self::Kernels,
        picture: &mut Picture,
        work: impl FnOnce(&mut Self::Kernels, &mut <Self::Kernels as Kernels>::Frame<'_>) -> R,
    ) -> R;
}

impl Place for Cpu {
    type Kernels = Cpu;

    fn kernels() -> Cpu {
        Cpu::new()
    }

    fn lend<R>(
        kernels: &mut Cpu,
        picture: &mut Picture,
        work: impl FnOnce(&mut Cpu, &mut kernels::Frame<'_>) -> R,
    ) -> R {
        work(kernels, &mut picture.frame())
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::sync::{Arc, OnceLock};

    use kernels::Kernels;
    use kernels::cuda::{Cuda, Device, Format, Frame, Picture as Memory, Rows};

    use super::super::picture::Picture;
    use super::Place;

    /// One device for all tests, real or not.
    pub fn device() -> Arc<Device> {
        static DEVICE: OnceLock<Arc<Device>> = OnceLock::new();
        DEVICE
            .get_or_init(|| Device::open(0).expect("these tests need a CUDA driver"))
            .clone()
    }

    impl Place for Cuda {
        type Kernels = Cuda;

        fn kernels() -> Cuda {
            Cuda::new(&device()).expect("the device has memory for small things")
        }

        fn lend<R>(
            kernels: &mut Cuda,
            picture: &mut Picture,
            work: impl FnOnce(&mut Cuda, &mut Frame<'_>) -> R,
        ) -> R {
            // Without a gap between the planes or after them, and each of them last in some picture: so whatever a
            // kernel touches beyond a plane is another plane, or not there.
            let count = picture.planes.len();
            let mut rows = [Rows { offset: 0, stride: 0 }; 3];
            let mut bytes = 0;
            let order = (0..count).map(|i| (i + picture.width) % count);
            for plane in order.clone() {
                rows[plane] = Rows {
                    offset: bytes,
                    stride: picture.planes[plane].stride,
                };
                bytes += picture.planes[plane].data.len();
            }
            let format = match count {
                2 => Format::Nv12 {
                    y: rows[0],
                    uv: rows[1],
                },
                _ => Format::I420 {
                    y: rows[0],
                    u: rows[1],
                    v: rows[2],
                },
            };
            let mut memory =
                Memory::new(kernels.device(), bytes).expect("the device has memory for a picture");
            for (Rows { offset, .. }, plane) in rows.iter().zip(&picture.planes) {
                memory.bytes_mut()[*offset..][..plane.data.len()].copy_from_slice(&plane.data);
            }
            let size = [picture.width, picture.height];
            let result = memory
                .with_frame(size, picture.color, format, |frame| {
                    let result = work(kernels, frame);
                    kernels.finish().expect("the device did what it was asked for");
                    result
                })
                .expect("a picture is a sound frame");
            for (Rows { offset, .. }, plane) in rows.iter().zip(&mut picture.planes) {
                let length = plane.data.len();
                plane.data.copy_from_slice(&memory.bytes()[*offset..][..length]);
            }
            result
        }
    }
}
