//! Readers of `persona update`: a package's signature, and what the box has noted about its two slots.

use std::collections::BTreeMap;
use std::io;

use persona::update::{Disk, Slot, Slots, Version};

// Made with minisign for this test; the secret key was thrown away.
const KEY: &str = "RWSMYrBApTzwP76U9idQ+D802wRhsWMzWAVqGarBBHOB9OD11PZcS3Ew";
const PACKAGE: &[u8] = b"package one";
const SIGNATURE: &str = "\
untrusted comment: signature from minisign secret key
RUSMYrBApTzwP1U79rVYN3aU+sanSGo4x+0Id8YsfTXKmTHxk9oxoUYc+AXOrakMjdigKJmlr+1JJhcTAYveftKr1pPAMnyTgQA=
trusted comment: persona 0.2.0
pxK/GkLzbKuMV8TNfjC9eW4sXjyc+LaCND91rtKd5IkDYEV+IAS6wUn//Hko+uRYuf+ZCh94dFWpBrPYuW/DBA==
";

/// A disk in memory.
#[derive(Default)]
struct Memory(BTreeMap<String, Vec<u8>>);

impl Disk for Memory {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.get(name).cloned())
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.insert(name.into(), bytes.into());
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let file = self.0.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.0.insert(to.into(), file);
        Ok(())
    }
}

/// A signature, and a package beside it: what is taken was signed, and is of the version that was signed.
pub(super) fn signature(bytes: &[u8]) {
    let install = |package: &[u8], signature: &str, key: &str| {
        let mut slots = Slots::open(Memory::default()).expect("an empty disk");
        slots.install(package, signature, key)
    };
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(version) = install(PACKAGE, text, KEY) {
            assert_eq!(version, Version(0, 2, 0));
        }
        assert!(install(b"package two", text, KEY).is_err());
        // As the key of the box, too: no key but the right one fits.
        if install(PACKAGE, SIGNATURE, text).is_ok() {
            assert_eq!(text.trim(), KEY);
        }
    }
    if install(bytes, SIGNATURE, KEY).is_ok() {
        assert_eq!(bytes, PACKAGE);
    }
}

pub(super) fn signature_seeds() -> Vec<Vec<u8>> {
    vec![SIGNATURE.into(), KEY.into(), PACKAGE.into()]
}

/// What the box has noted: whatever it is, only a slot that holds what was installed is started.
pub(super) fn slots(bytes: &[u8]) {
    let mut disk = Memory::default();
    disk.0.insert("state.json".into(), bytes.into());
    disk.0.insert("a.deb".into(), PACKAGE.into());
    let Ok(mut slots) = Slots::open(disk) else {
        return;
    };
    if let Ok(slot) = slots.start() {
        assert_eq!(slot, Slot::A, "slot B is empty");
    }
    // Neither of these may panic; both may be refused.
    let _ = slots
        .install(PACKAGE, SIGNATURE, KEY)
        .map_err(|error| error.to_string());
    let _ = slots.confirm().map_err(|error| error.to_string());
}

pub(super) fn slots_seeds() -> Vec<Vec<u8>> {
    // SHA-256 of `PACKAGE`.
    let digest = "1f9a892e0d2875eda557df4513fe22fd01d36e40377c2eaf466f9666655cca50";
    let installed = |slot: &str| format!(r#"{{"slot":"{slot}","version":[0,2,0],"sha256":"{digest}"}}"#);
    let state = |active: &str, fallback: &str, trial: &str| {
        format!(r#"{{"active":{active},"fallback":{fallback},"trial":{trial},"newest":[0,1,0]}}"#)
            .into_bytes()
    };
    let (a, b) = (installed("a"), installed("b"));
    vec![
        state(&a, "null", "null"),
        state(&b, &a, "2"),
        state(&b, &a, "0"),
        state("null", "null", "null"),
    ]
}
