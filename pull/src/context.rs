//! What all images of a run share.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::layout::{MAX_JSON, read_bounded};
use d_common::report::Report;

use crate::cache::Cache;
use crate::credentials::Credentials;
use crate::folders::RegistriesConf;
use crate::http::Http;
use crate::plan::{Plan, PullMode, Wanted};
use crate::progress::Progress;
use crate::registry::{Repository, api_host};
use crate::sources::Registries;
use crate::tls::Trusts;

/// The plan and the means.
pub struct Context {
    /// What was decided.
    pub plan: Plan,
    /// Messages.
    pub report: Report,
    /// Where blobs go.
    pub cache: Cache,
    /// The network; nothing is made before it is needed.
    pub http: Http,
    /// Who we are.
    pub credentials: Credentials,
    /// How far we are.
    pub progress: Progress,
    registries: OnceLock<Registries>,
}

impl Context {
    /// Gathers the means for a plan.
    ///
    /// # Errors
    /// [`Exit::Usage`] for a bad `--creds-fd`, [`Exit::NotFound`] without the `--authfile`.
    pub fn new(plan: Plan, report: Report) -> Result<Self> {
        let trusts = Trusts::new(plan.cert_dir.clone(), plan.certs_d.clone());
        let http = Http::new(report, plan.stall, trusts, plan.proxies.clone());
        if let Some(file) = plan.auth_files.first().filter(|file| plan.authfile_given && !file.exists()) {
            fail!(Exit::NotFound, "--authfile {}: there is no such file", file.display());
        }
        let mut credentials = Credentials::new(plan.auth_files.clone(), report);
        if let Some((fd, registry)) = &plan.creds {
            credentials.read_fd(*fd, registry)?;
        }
        let cache = Cache::new(&plan.cache);
        let quiet = report.level == d_common::report::Level::Quiet;
        let progress = Progress::new(plan.progress, quiet);
        Ok(Self { plan, report, cache, http, credentials, progress, registries: OnceLock::new() })
    }

    /// Where an image may be fetched from; nowhere under `--offline`.
    ///
    /// # Errors
    /// [`Exit::NotAllowed`] when registries.conf blocks it, [`Exit::Data`] when that file is broken.
    pub fn sources(&self, wanted: &Wanted) -> Result<Vec<Repository<'_>>> {
        if self.plan.mode == PullMode::Never {
            return Ok(Vec::new());
        }
        let registries = match self.registries.get() {
            Some(registries) => registries,
            None => {
                let read = read_registries(&self.plan.registries_conf)?;
                self.registries.get_or_init(|| read)
            }
        };
        let sources = registries.sources(&wanted.reference, &self.plan.mirrors, self.plan.insecure)?;
        let last = sources.len().saturating_sub(1);
        Ok(sources
            .into_iter()
            .enumerate()
            .map(|(i, source)| {
                if source.insecure {
                    self.http.trusts.trust_anyone(api_host(&source.registry));
                }
                let tls_settings = self.http.trusts.has_folders(&source.registry);
                Repository::new(&self.http, &self.credentials, source, tls_settings, i < last)
            })
            .collect())
    }
}

fn read_registries(conf: &RegistriesConf) -> Result<Registries> {
    let mut registries = Registries::default();
    for file in &conf.files {
        if add_file(&mut registries, file)? {
            break;
        }
    }
    for folder in &conf.folders {
        let mut files: Vec<_> = folder.read_dir().into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "conf")) {
            add_file(&mut registries, file)?;
        }
    }
    Ok(registries)
}

fn add_file(registries: &mut Registries, path: &Path) -> Result<bool> {
    let file = match File::open(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(false),
        file => file.or_exit(Exit::NotAllowed, || format!("cannot open {}", path.display()))?,
    };
    let step = || format!("cannot read {}", path.display());
    let text = String::from_utf8(read_bounded(file, MAX_JSON).or_exit(Exit::Data, step)?).or_exit(Exit::Data, step)?;
    registries.add(&path.display().to_string(), &text)?;
    Ok(true)
}
