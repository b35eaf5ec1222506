//! Temperatures, load of the GPU, throttling and memory, from sysfs and procfs below roots of the caller's choice.
//!
//! What a machine lacks is `None` or empty: every board has other sensors, and none of them may stop the program.

use std::{
    fs,
    path::{Path, PathBuf},
    string::{String, ToString},
    vec::Vec,
};

/// Names of the GPU's device tree node on Jetsons (NVIDIA's gk20a driver: Xavier, TX2, Orin, Thor).
const GPU_NODES: [&str; 4] = ["gv11b", "gp10b", "ga10b", "gpu"];

/// Where the sensors of this machine are. Found once, read often.
#[derive(Debug, Clone, Default)]
pub struct Sensors {
    /// Type and file of each thermal zone.
    zones: Vec<(String, PathBuf)>,
    /// Folder of the GPU's devfreq entry.
    gpu: Option<PathBuf>,
    /// State files of the cooling devices that work by slowing down.
    throttles: Vec<PathBuf>,
    memory: PathBuf,
}

/// What the sensors say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readings {
    /// Type of the thermal zone and its temperature in thousandths of a degree Celsius. Zones that are off are left
    /// out.
    pub temperatures: Vec<(String, i32)>,
    /// Load of the GPU, 0 to 1000.
    pub gpu_load: Option<u16>,
    /// Clock of the GPU in Hz.
    pub gpu_clock: Option<u64>,
    /// Whether a processor or the GPU is being slowed down because it is hot.
    pub throttled: bool,
    /// Memory that programs can still get, in bytes.
    pub memory_available: Option<u64>,
}

impl Readings {
    /// The hottest zone, in thousandths of a degree Celsius.
    pub fn hottest(&self) -> Option<i32> {
        self.temperatures
            .iter()
            .map(|(_, temperature)| *temperature)
            .max()
    }
}

impl Sensors {
    /// Looks for sensors below `sysfs` (`/sys`) and `procfs` (`/proc`).
    pub fn find(sysfs: &Path, procfs: &Path) -> Self {
        let thermal = entries(&sysfs.join("class/thermal"));
        let zones = thermal
            .iter()
            .filter(|path| is_named(path, "thermal_zone"))
            .filter_map(|path| Some((text(&path.join("type"))?, path.join("temp"))))
            .collect();
        let throttles = thermal
            .iter()
            .filter(|path| is_named(path, "cooling_device"))
            .filter(|path| text(&path.join("type")).is_some_and(|kind| is_throttle(&kind)))
            .map(|path| path.join("cur_state"))
            .collect();
        let gpu = entries(&sysfs.join("class/devfreq")).into_iter().find(|path| {
            let node = text(&path.join("device/of_node/name"));
            node.is_some_and(|node| GPU_NODES.contains(&node.as_str()))
        });
        Self {
            zones,
            gpu,
            throttles,
            memory: procfs.join("meminfo"),
        }
    }

    /// Reads them all.
    pub fn read(&self) -> Readings {
        let gpu = |name: &str| self.gpu.as_ref().and_then(|path| text(&path.join(name)));
        Readings {
            temperatures: self
                .zones
                .iter()
                // A zone that is powered off gives an error.
                .filter_map(|(kind, path)| Some((kind.clone(), text(path)?.parse().ok()?)))
                .collect(),
            gpu_load: gpu("device/load").and_then(|load| load.parse().ok()),
            gpu_clock: gpu("cur_freq").and_then(|clock| clock.parse().ok()),
            throttled: self
                .throttles
                .iter()
                .filter_map(|path| text(path)?.parse::<u32>().ok())
                .any(|state| state > 0),
            memory_available: fs::read_to_string(&self.memory)
                .ok()
                .and_then(|meminfo| available(&meminfo)),
        }
    }
}

/// Whether a cooling device works by slowing a processor down; a fan does not.
fn is_throttle(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    !kind.contains("fan")
        && ["cpufreq", "processor", "gpu", "throttle", "devfreq"]
            .iter()
            .any(|part| kind.contains(part))
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kilobytes * 1024)
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    // The device tree's strings end in a zero byte.
    Some(text.trim_end_matches('\0').trim().to_string())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    entries
}

fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with these files.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn read(root: &tempfile::TempDir) -> Readings {
        Sensors::find(&root.path().join("sys"), &root.path().join("proc")).read()
    }

    const ORIN: [(&str, &str); 14] = [
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", "48531\n"),
        ("sys/class/thermal/thermal_zone1/type", "gpu-thermal\n"),
        ("sys/class/thermal/thermal_zone1/temp", "51250\n"),
        // Off: the kernel gives an error, here there is no file.
        ("sys/class/thermal/thermal_zone2/type", "cv0-thermal\n"),
        ("sys/class/thermal/cooling_device0/type", "pwm-fan\n"),
        ("sys/class/thermal/cooling_device0/cur_state", "3\n"),
        ("sys/class/thermal/cooling_device1/type", "thermal-cpufreq-0\n"),
        ("sys/class/thermal/cooling_device1/cur_state", "0\n"),
        (
            "sys/class/devfreq/13e40000.host1x/device/of_node/name",
            "host1x\0",
        ),
        ("sys/class/devfreq/17000000.gpu/device/of_node/name", "ga10b\0"),
        ("sys/class/devfreq/17000000.gpu/device/load", "735\n"),
        ("sys/class/devfreq/17000000.gpu/cur_freq", "624750000\n"),
        (
            "proc/meminfo",
            "MemTotal: 7802880 kB\nMemAvailable:    5120000 kB\n",
        ),
    ];

    #[test]
    fn an_orin_is_read() {
        let readings = read(&tree(&ORIN));
        let zones = [
            ("cpu-thermal".to_string(), 48_531),
            ("gpu-thermal".to_string(), 51_250),
        ];
        assert_eq!(
            readings,
            Readings {
                temperatures: zones.to_vec(),
                gpu_load: Some(735),
                gpu_clock: Some(624_750_000),
                throttled: false,
                memory_available: Some(5_120_000 * 1024),
            }
        );
        assert_eq!(readings.hottest(), Some(51_250));
    }

    #[test]
    fn a_processor_that_is_slowed_down_is_throttled_and_a_fan_is_not() {
        let mut hot = ORIN;
        hot[8].1 = "2\n";
        assert!(read(&tree(&hot)).throttled);
    }

    #[test]
    fn a_machine_without_sensors_is_no_error() {
        let readings = read(&tree(&[]));
        assert_eq!((readings.hottest(), readings), (None, Readings::default()));
        let broken = [
            ("sys/class/thermal/thermal_zone0/type", "acpitz"),
            ("sys/class/thermal/thermal_zone0/temp", "warm"),
            ("proc/meminfo", "MemAvailable: much"),
        ];
        assert_eq!(read(&tree(&broken)), Readings::default());
    }
}
