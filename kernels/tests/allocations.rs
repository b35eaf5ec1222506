//! No kernel allocates once it has seen a frame of its size.

use kernels::cpu::Cpu;
use kernels::{Hull, Kernels, MEAN_FACE, Placement, Rect, Region, Similarity, Values};

#[allow(dead_code)]
#[path = "conformance/picture.rs"]
mod picture;
use picture::{Format, HD, Picture};

#[test]
fn warm_kernels_do_not_allocate() {
    let mut cpu = Cpu::new();
    for format in [Format::I420, Format::Nv12] {
        let mut picture = Picture::noise((640, 360), HD, format, 0, 1);
        let mut frame = picture.frame();
        let mut input = cpu.tensor([1, 3, 96, 160]).unwrap();
        let mut crops = cpu.tensor([2, 3, 64, 64]).unwrap();
        let mut masks = cpu.tensor([2, 1, 64, 64]).unwrap();
        let mut shares = cpu.tensor([2, 1, 1, 1]).unwrap();
        let aligns = [200.0, 80.0].map(|pixels| Similarity {
            a: 1.0 / pixels,
            b: 0.1 / pixels,
            tx: -0.5,
            ty: -0.5,
        });
        let placements = aligns.map(|align| {
            let back = align.inverse();
            let hull = Hull::of(&MEAN_FACE.map(|point| back.apply(point)));
            Placement { align, hull }
        });
        let regions = [
            Region::Hull(placements[0].hull.clone()),
            Region::Box(Rect::new(9.0, 9.0, 50.0, 50.0)),
        ];
        let mut all = || {
            let region = Rect::new(-10.0, 0.0, 660.0, 360.0);
            cpu.resize(&frame, region, Values::Byte, &mut input, 0).unwrap();
            cpu.resize_batch(&mut crops, 2).unwrap();
            cpu.warp(&frame, &aligns, Values::Signed, &mut crops).unwrap();
            cpu.read(&mut crops).unwrap();
            cpu.judge(&placements, 0.5, &crops, &mut masks, &mut shares)
                .unwrap();
            cpu.blend(&mut frame, &placements, &crops, &masks).unwrap();
            cpu.cover(&mut frame, &regions).unwrap();
            cpu.cover(&mut frame, &[Region::Frame]).unwrap();
            cpu.checksum(&frame).unwrap();
            cpu.finish().unwrap();
        };
        all();
        let measured = allocation_counter::measure(all);
        assert_eq!(measured.count_total, 0, "{format:?}");
    }
}

/// Nor do those of the GPU; and a frame costs the same number of launches whatever the number of faces.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a CUDA driver, or the one that `cargo xtask kernels` makes"]
fn warm_kernels_do_not_allocate_on_the_gpu() {
    use kernels::cuda::{Cuda, Device, Format as Planes, Picture as Memory, Rows};

    let device = Device::open(0).unwrap();
    let mut cuda = Cuda::new(&device).unwrap();
    let mut memory = Memory::new(&device, 640 * 360 * 3 / 2).unwrap();
    let mut input = cuda.tensor([1, 3, 96, 160]).unwrap();
    let mut crops = cuda.tensor([64, 3, 64, 64]).unwrap();
    let mut masks = cuda.tensor([64, 1, 64, 64]).unwrap();
    let mut shares = cuda.tensor([64, 1, 1, 1]).unwrap();
    let align = Similarity {
        a: 1.0 / 60.0,
        b: 0.002,
        tx: -0.5,
        ty: -0.5,
    };
    let back = align.inverse();
    let hull = Hull::of(&MEAN_FACE.map(|point| back.apply(point)));
    let planes = Planes::Nv12 {
        y: Rows {
            offset: 0,
            stride: 640,
        },
        uv: Rows {
            offset: 640 * 360,
            stride: 640,
        },
    };
    let mask = vec![1.0; 64 * 64];
    let mut launches = [0; 2];
    for (launches, faces) in launches.iter_mut().zip([1, 64]) {
        let aligns = vec![align; faces];
        let hull = hull.clone();
        let placements = vec![Placement { align, hull }; faces];
        let regions: Vec<_> = placements.iter().map(|p| Region::Hull(p.hull.clone())).collect();
        let mut all = || {
            memory
                .with_frame([640, 360], HD, planes, |frame| {
                    let region = Rect::new(-10.0, 0.0, 660.0, 360.0);
                    cuda.resize(frame, region, Values::Byte, &mut input, 0).unwrap();
                    cuda.resize_batch(&mut crops, faces).unwrap();
                    cuda.warp(frame, &aligns, Values::Signed, &mut crops).unwrap();
                    cuda.read(&mut crops).unwrap();
                    cuda.write(&mut masks, 0, &mask).unwrap();
                    cuda.judge(&placements, 0.5, &crops, &mut masks, &mut shares)
                        .unwrap();
                    cuda.fetch(&mut shares).unwrap();
                    cuda.blend(frame, &placements, &crops, &masks).unwrap();
                    cuda.cover(frame, &regions).unwrap();
                    cuda.checksum(frame).unwrap();
                    cuda.finish().unwrap();
                    cuda.read(&mut shares).unwrap();
                })
                .unwrap();
        };
        all();
        let measured = allocation_counter::measure(&mut all);
        assert_eq!(measured.count_total, 0, "{faces} faces");
        let before = cuda.launches();
        memory
            .with_frame([640, 360], HD, planes, |frame| {
                cuda.warp(frame, &aligns, Values::Signed, &mut crops).unwrap();
                cuda.judge(&placements, 0.5, &crops, &mut masks, &mut shares)
                    .unwrap();
                cuda.blend(frame, &placements, &crops, &masks).unwrap();
                cuda.cover(frame, &regions).unwrap();
                cuda.finish().unwrap();
            })
            .unwrap();
        *launches = cuda.launches() - before;
    }
    assert_eq!(launches, [5; 2]);
}
