//! Certificates: PEM files that are read whole and proved before anybody is answered with them.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, InconsistentKeys, ServerConfig};

use super::Tls;

/// A certificate chain with the private key that belongs to it.
#[derive(Clone)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    server: Arc<ServerConfig>,
}

/// Why a certificate cannot be used; one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableCertificate {
    /// A file cannot be read.
    #[error("{path}: cannot read the {what}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// The system's own words.
        source: std::io::Error,
    },
    /// Others can read the key.
    #[error("{path}: other users of this machine can read this key (mode {mode:o}); chmod 600 {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file is not what it should be.
    #[error("{path}: no {what} in this file; wanted PEM, with a line -----BEGIN {label}-----", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// How that begins.
        label: &'static str,
    },
    /// Certificate and key are of two pairs.
    #[error("{key}: this is not the key of the certificate {certificate}; were both renewed?", key = key.display(), certificate = certificate.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The certificate or its key is of a kind that nobody should use any more.
    #[error("{certificate}: cannot serve with this certificate: {reason}; wanted RSA from 2048 bits, ECDSA P-256 or P-384, or Ed25519", certificate = certificate.display())]
    Kind {
        /// The certificate.
        certificate: PathBuf,
        /// Why not.
        reason: rustls::Error,
    },
}

impl Certificate {
    /// Reads both files and proves that the key belongs to the first certificate of the chain.
    ///
    /// # Errors
    /// [`UnusableCertificate`], without a byte of the key.
    pub fn read(tls: &Tls) -> Result<Self, UnusableCertificate> {
        let unreadable = |path: &PathBuf, what, source| UnusableCertificate::Read {
            path: path.clone(),
            what,
            source,
        };
        let text = std::fs::read(&tls.certificate)
            .map_err(|source| unreadable(&tls.certificate, "certificate", source))?;
        let no_certificate = || UnusableCertificate::Content {
            path: tls.certificate.clone(),
            what: "certificate",
            label: "CERTIFICATE",
        };
        let chain = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<Vec<_>, pem::Error>>()
            .ok()
            .filter(|chain| !chain.is_empty())
            .ok_or_else(no_certificate)?;

        let unreadable = |source| unreadable(&tls.key, "key", source);
        let mode = std::fs::metadata(&tls.key)
            .map_err(unreadable)?
            .permissions()
            .mode()
            & 0o777;
        if mode & 0o007 != 0 {
            let path = tls.key.clone();
            return Err(UnusableCertificate::Open { path, mode });
        }
        let text = std::fs::read(&tls.key).map_err(unreadable)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| UnusableCertificate::Content {
            path: tls.key.clone(),
            what: "key",
            label: "PRIVATE KEY",
        })?;

        let kind = |reason| UnusableCertificate::Kind {
            certificate: tls.certificate.clone(),
            reason,
        };
        let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(kind)?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key)
            .map_err(|reason| match reason {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => UnusableCertificate::Pair {
                    certificate: tls.certificate.clone(),
                    key: tls.key.clone(),
                },
                reason => kind(reason),
            })?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            chain,
            server: Arc::new(server),
        })
    }

    /// For a TLS server that speaks HTTP/1.1.
    pub(in crate::serve) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }
}

impl PartialEq for Certificate {
    /// One chain has one key.
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    fn openssl(folder: &Path, arguments: &str) {
        let made = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder)
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "openssl {arguments}");
    }

    #[test]
    fn a_pair_is_read_and_anything_else_is_refused_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind) in [
            ("rsa", "rsa:2048"),
            ("ec", "ec -pkeyopt ec_paramgen_curve:P-256"),
            ("other", "ed25519"),
        ] {
            let arguments = format!(
                "req -x509 -newkey {kind} -nodes -days 1 -subj /CN=box -keyout {name}.key -out {name}.crt"
            );
            openssl(dir.path(), &arguments);
        }
        std::fs::write(dir.path().join("text"), "nothing").unwrap();
        std::fs::set_permissions(dir.path().join("text"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let read = |certificate: &str, key: &str| {
            Certificate::read(&Tls {
                certificate: dir.path().join(certificate),
                key: dir.path().join(key),
            })
        };
        for name in ["rsa", "ec", "other"] {
            let same = read(&format!("{name}.crt"), &format!("{name}.key")).unwrap();
            assert_eq!(same == read("rsa.crt", "rsa.key").unwrap(), name == "rsa");
        }
        for (certificate, key, words) in [
            ("none", "rsa.key", "none: cannot read the certificate: "),
            ("rsa.crt", "none", "none: cannot read the key: "),
            ("text", "rsa.key", "text: no certificate in this file"),
            ("rsa.key", "rsa.key", "rsa.key: no certificate in this file"),
            ("rsa.crt", "text", "text: no key in this file"),
            ("rsa.crt", "rsa.crt", "rsa.crt: other users"),
            (
                "rsa.crt",
                "ec.key",
                "ec.key: this is not the key of the certificate ",
            ),
        ] {
            let sentence = read(certificate, key).unwrap_err().to_string();
            assert!(
                sentence.contains(words) && sentence.lines().count() == 1,
                "{sentence}"
            );
        }
    }
}
