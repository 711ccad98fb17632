//! Pull container images from a registry into an OCI image layout.
//!
//! Data flows one way: reference -> sources -> manifest -> blobs -> cache (-> archive). [`run`] is the table of contents.

#![forbid(unsafe_code)]

pub mod archive;
pub mod args;
pub mod blob;
pub mod cache;
pub mod challenge;
pub mod check;
pub mod context;
pub mod credentials;
pub mod find;
pub mod folders;
pub mod growth;
pub mod helper;
pub mod http;
pub mod index;
pub mod link;
pub mod lockfile;
pub mod maintain;
pub mod manifest;
pub mod partial;
pub mod plan;
pub mod progress;
pub mod proxy;
pub mod pull;
pub mod reference;
pub mod registry;
pub mod resolve;
pub mod results;
pub mod retry;
pub mod sources;
pub mod target;
pub mod tls;
pub mod token;

use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Error, Result};
use d_common::exit::{Exit, exit_of, failure};
use d_common::fail;
use d_common::output::{Lost, must_be_open};
use d_common::report::{Report, chain};

use crate::context::Context;
use crate::find::Finder;
use crate::lockfile::Pin;
use crate::plan::{Action, Output, Plan, PullMode, Show, Wanted};
use crate::pull::{Pulled, pull};
use crate::reference::{Reference, Version};
use crate::results::Results;
use crate::target::Target;

/// Carries a plan out. Failures of single images are reported as they happen, as is the one that ends everything; what is
/// returned is the exit code of the first.
///
/// # Errors
/// What is wrong before anything is begun.
pub fn run(plan: Plan, report: Report) -> Result<Option<Exit>> {
    let context = Context::new(plan, report)?;
    if context.plan.action != Action::Check {
        context.cache.check_version()?;
    }
    let mut failures = Failures { report, first: None };
    if let Err(last) = carry_out(&context, &mut failures) {
        failures.report(&last);
    }
    Ok(failures.first)
}

fn carry_out(context: &Context, failures: &mut Failures) -> Result<()> {
    let plan = &context.plan;
    let results = Results(plan.format);
    match &plan.action {
        Action::Check => check::run(context)?,
        Action::Maintain { forget, fsck, expire, gc, list } => {
            for reference in forget {
                failures.note(maintain::forget(context, reference))?;
            }
            if *fsck {
                failures.note(maintain::fsck(context, results))?;
            }
            if *expire {
                failures.note(maintain::expire(context, plan.expire_days))?;
            }
            if *gc {
                failures.note(maintain::gc(context))?;
            }
            if *list {
                failures.note(maintain::list(context, results))?;
            }
        }
        Action::Show(what, refs, locked) => {
            for wanted in wanted(context, refs, locked.as_deref())? {
                failures.note(wanted.and_then(|wanted| show(context, *what, &wanted, results)))?;
            }
        }
        Action::Pull { refs, locked, write_lock, output } => {
            let mut pins = Vec::new();
            for wanted in wanted(context, refs, locked.as_deref())? {
                let pulled = wanted.and_then(|wanted| pull_one(context, &wanted, output.as_ref(), results));
                pins.extend(failures.note(pulled)?);
            }
            if let Some(path) = write_lock.as_deref().filter(|_| failures.first.is_none()) {
                lockfile::write(path, &pins)?;
            }
            if plan.mode != PullMode::Never
                && let Err(error) = maintain::expire(context, plan.expire_days)
            {
                // The images are there all the same; a cache that is only ours to read is someone else's to tidy.
                context.report.info(format_args!("nothing expires: {}", chain(&error)));
            }
        }
    }
    Ok(())
}

/// Failures as they happen.
struct Failures {
    report: Report,
    first: Option<Exit>,
}

impl Failures {
    /// Reports a failure, after which the others go on; but not that stdout is lost, since they would say the same.
    fn note<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.is::<Lost>() => Err(error),
            Err(error) => {
                self.report(&error);
                Ok(None)
            }
        }
    }

    fn report(&mut self, error: &Error) {
        self.report.error(error);
        self.first.get_or_insert(exit_of(error));
    }
}

/// The images to look for: the operands, or what a lock file says of them, or all that it says.
fn wanted(context: &Context, refs: &[Reference], locked: Option<&Path>) -> Result<Vec<Result<Wanted>>> {
    let plan = &context.plan;
    let Some(path) = locked else { return Ok(refs.iter().map(|r| Ok(plan.wanted(r))).collect()) };
    let pins = lockfile::read(path)?;
    let of_pin = |pin: &Pin| Wanted {
        reference: pin.reference.clone(),
        version: Version::Digest(pin.digest.clone()),
        platform: pin.platform.clone(),
        any_platform: false,
    };
    if refs.is_empty() {
        let chosen = pins.iter().filter(|p| plan.only.as_ref().is_none_or(|only| p.platform == *only));
        return Ok(chosen.map(|p| Ok(of_pin(p))).collect());
    }
    let given = plan.platform_given.then_some(&plan.platform);
    let choose = |reference: &Reference| {
        let missing =
            || failure(Exit::NotFound, format!("{reference} for {} is not in {}", plan.platform, path.display()));
        lockfile::choose(&pins, reference, given).map(of_pin).ok_or_else(missing)
    };
    Ok(refs.iter().map(choose).collect())
}

fn pull_one(context: &Context, wanted: &Wanted, output: Option<&Output>, results: Results) -> Result<Pin> {
    let pulled = match output {
        None => pull(context, wanted, None)?,
        Some(Output::Stdout) if io::stdout().is_terminal() => {
            fail!(Exit::Usage, "stdout is a terminal, which cannot show an archive: use a pipe or -o FILE")
        }
        Some(Output::Stdout) => {
            must_be_open()?;
            pull(context, wanted, Some(&mut io::stdout().lock()))?
        }
        Some(Output::File(path)) => {
            let target = Target::create(path)?;
            let pulled = pull(context, wanted, Some(&mut target.writer()))?;
            target.commit()?;
            pulled
        }
    };
    // The archive is the result, then, and has stdout for itself.
    if output != Some(&Output::Stdout) {
        results.pulled(&pulled)?;
    }
    let Pulled { reference, platform, digest, .. } = pulled;
    Ok(Pin { reference, platform, digest })
}

/// Prints something of an image, without pulling it.
fn show(context: &Context, what: Show, wanted: &Wanted, results: Results) -> Result<()> {
    let sources = context.sources(wanted)?;
    if what == Show::Tags {
        let name = wanted.reference.name();
        // A mirror may have some tags only: the registry itself, which is the last, has all.
        let Some(registry) = sources.last() else { return Ok(()) };
        return registry.tags()?.iter().try_for_each(|tag| results.tag(&name, tag));
    }
    let finder = Finder::new(context, wanted, &sources);
    let image = finder.find()?;
    match what {
        Show::Manifest => results.raw(&image.manifest.bytes),
        Show::Config => results.raw(&finder.config(&image)?),
        Show::Digest | Show::Tags => {
            let (reference, digest) = (wanted.reference.clone(), image.manifest.digest);
            results.digest(&Pin { reference, platform: image.platform, digest })
        }
    }
}
