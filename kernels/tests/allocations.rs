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
        let masks = cpu.tensor([2, 1, 64, 64]).unwrap();
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
