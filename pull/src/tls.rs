//! Whom to believe: the system's certificate authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured), those of
//! `--cert-dir` and certs.d (containers-certs.d(5)), or, with `--insecure`, anyone.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Largest certificate or key file that is read, in bytes.
const MAX_PEM: u64 = 1 << 20;

/// Where systems keep their authorities: Debian and Alpine, Fedora, SUSE, and others.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is known of one host's certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Any certificate will do.
    pub insecure: bool,
    /// Folders with `*.crt` (authorities) and `*.cert` with `*.key` (our own certificate).
    pub folders: Vec<PathBuf>,
}

/// What is known of all hosts.
#[derive(Debug)]
pub struct Trusts {
    cert_dir: Option<PathBuf>,
    certs_d: Vec<PathBuf>,
    insecure: Mutex<HashSet<String>>,
}

impl Trusts {
    /// `cert_dir` is for every host of this run; `certs_d` are folders like /etc/containers/certs.d, with a folder for each
    /// `HOST[:PORT]`.
    pub fn new(cert_dir: Option<PathBuf>, certs_d: Vec<PathBuf>) -> Self {
        Self { cert_dir, certs_d, insecure: Mutex::default() }
    }

    /// Whether the user has certificates for `host`.
    pub fn has_folders(&self, host: &str) -> bool {
        !self.of(host).folders.is_empty()
    }

    /// From now on, anyone may say that it is `host` (`HOST[:PORT]`).
    pub fn trust_anyone(&self, host: &str) {
        self.insecure.lock().unwrap_or_else(PoisonError::into_inner).insert(plain(host));
    }

    /// Whom to believe at `host` (`HOST[:PORT]`).
    pub fn of(&self, host: &str) -> Trust {
        let insecure = self.insecure.lock().unwrap_or_else(PoisonError::into_inner).contains(&plain(host));
        let per_host = self.certs_d.iter().map(|d| d.join(host)).filter(|d| d.is_dir());
        Trust { insecure, folders: per_host.chain(self.cert_dir.clone()).collect() }
    }
}

/// A host as URLs write it: lower case, and without the usual ports.
fn plain(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    host.strip_suffix(":443").or_else(|| host.strip_suffix(":80")).unwrap_or(&host).to_owned()
}

impl Trust {
    /// Whether nothing is said but what the system says.
    pub fn is_default(&self) -> bool {
        !self.insecure && self.folders.is_empty()
    }

    /// The TLS settings for it.
    ///
    /// # Errors
    /// [`Exit::Data`] for a broken certificate or key file, [`Exit::Unavailable`] if there are no authorities at all.
    pub fn client_config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let (authorities, identity) = read_folders(&self.folders)?;
        let algorithms = provider.signature_verification_algorithms;
        let belief =
            if self.insecure { Belief::Anyone } else { Belief::in_authorities(provider.clone(), authorities)? };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .or_exit(Exit::Unavailable, || "cannot set up TLS")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { belief, algorithms }));
        match identity {
            Some((certificates, key)) => builder
                .with_client_auth_cert(certificates, key)
                .or_exit(Exit::Data, || "the client certificate and its key do not fit"),
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

/// TLS settings for connections that should not use TLS: they cost nothing, and believe nobody.
///
/// # Errors
/// None that is known.
pub fn nobody() -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .or_exit(Exit::Unavailable, || "cannot set up TLS")?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The authorities of the system, read once.
fn system_roots() -> &'static [CertificateDer<'static>] {
    static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        // Empty is as good as unset, which rustls-native-certs does not know of this one.
        if env::var_os("SSL_CERT_FILE").is_none_or(|file| !file.is_empty()) {
            return rustls_native_certs::load_native_certs().certs;
        }
        let folders = env::var_os("SSL_CERT_DIR").unwrap_or_default();
        let folders: Vec<PathBuf> = env::split_paths(&folders).filter(|f| !f.as_os_str().is_empty()).collect();
        let of = |file, folder| rustls_native_certs::load_certs_from_paths(file, folder).certs;
        match folders.as_slice() {
            [] => of(BUNDLES.map(Path::new).into_iter().find(|f| f.exists()), None),
            folders => folders.iter().flat_map(|folder| of(None, Some(folder))).collect(),
        }
    })
}

/// How many certificate authorities the system has.
pub fn system_root_count() -> usize {
    system_roots().len()
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_folders(folders: &[PathBuf]) -> Result<(Vec<CertificateDer<'static>>, Option<Identity>)> {
    let (mut authorities, mut identity) = (Vec::new(), None);
    for folder in folders {
        let entries = fs::read_dir(folder).or_exit(Exit::NotFound, || format!("cannot read {}", folder.display()))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            match file.extension().and_then(|e| e.to_str()) {
                Some("crt") => authorities.extend(certificates(&file)?),
                Some("cert") => {
                    let key = file.with_extension("key");
                    let pem = read_pem(&key)?;
                    let key = PrivateKeyDer::from_pem_slice(&pem)
                        .or_exit(Exit::Data, || format!("{} is no private key", key.display()))?;
                    identity = Some((certificates(&file)?, key));
                }
                _ => {}
            }
        }
    }
    Ok((authorities, identity))
}

fn read_pem(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path).or_exit(Exit::NotFound, || format!("cannot open {}", path.display()))?;
    d_common::layout::read_bounded(file, MAX_PEM).or_exit(Exit::Data, || format!("cannot read {}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read_pem(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .or_exit(Exit::Data, || format!("{} is no PEM certificate", path.display()))?;
    if found.is_empty() {
        fail!(Exit::Data, "{} holds no certificate", path.display());
    }
    Ok(found)
}

/// Checks a server's certificate as its [`Belief`] says, and the handshake's signatures always.
#[derive(Debug)]
struct Verifier {
    belief: Belief,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Whose certificate is good.
#[derive(Debug)]
enum Belief {
    /// Anyone's: `--insecure`.
    Anyone,
    /// One that an authority vouches for; and, as for all other clients of registries, one that is itself among the trusted
    /// ones, though it calls itself an authority (`openssl req -x509` makes such).
    Trusted { usual: Arc<WebPkiServerVerifier>, certificates: Vec<CertificateDer<'static>> },
}

impl Belief {
    /// In the system's authorities, and in these.
    fn in_authorities(provider: Arc<CryptoProvider>, more: Vec<CertificateDer<'static>>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let mut certificates = more;
        certificates.extend(system_roots().iter().cloned());
        roots.add_parsable_certificates(certificates.iter().cloned());
        if roots.is_empty() {
            fail!(
                Exit::Unavailable,
                "there are no certificate authorities: install ca-certificates, or set SSL_CERT_FILE or --cert-dir"
            );
        }
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .or_exit(Exit::Data, || "cannot use the certificate authorities")?;
        Ok(Self::Trusted { usual, certificates })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Belief::Trusted { usual, certificates } = &self.belief else { return Ok(ServerCertVerified::assertion()) };
        match usual.verify_server_cert(certificate, chain, name, ocsp, now) {
            // webpki looks at the dates before it looks at this.
            Err(error) if is_authority(&error) && certificates.iter().any(|t| t == certificate) => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}
