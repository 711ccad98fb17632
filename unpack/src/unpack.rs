//! `d-unpack IMAGE DIR`: from the operand to the published directory.

use anyhow::Result;
use d_common::container::Stamp;
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::Report;
use d_common::sys::blocks;

use crate::describe::{self, stamp};
use crate::fill;
use crate::identity::Identity;
use crate::layers;
use crate::opened::Opened;
use crate::place::{Hidden, Place, State};
use crate::plan::{Replace, Shape, Unpack};
use crate::replace::Old;
use crate::source;
use crate::stream::nameless_in;

/// Unpacks, and returns DIR and its stamp.
///
/// # Errors
/// Everything that d-unpack(1) lists under EXIT STATUS.
pub fn run(plan: &Unpack, report: &Report) -> Result<(Place, Stamp)> {
    let source = source::open(&plan.image)?;
    let place = Place::of(&plan.dir)?;
    let mut old = old(&place, plan)?;
    place.check_parent()?;
    if let Ok(file) = nameless_in(&place.parent) {
        blocks::keep_in(file).or_exit(Exit::Io, || "cannot handle faults")?;
    }
    let identity = Identity::take(plan.map, old.as_ref().is_some_and(Old::has_subordinate_ids), report)?;
    place.clean(report);
    if let Some(old) = &mut old {
        old.settle(report)?;
    }
    let opened = Opened::new(source, plan, &place.parent)?;
    let image = opened.image().cloned();
    if let (Some(old), Some(image)) = (&old, &image) {
        let stamp = stamp(Some(image), None, plan, &identity);
        if old.is_like(&stamp, plan.replace) && opened.is_at_hand() {
            old.touch(&identity)?;
            report.info("the same image, map and options: nothing to do");
            return Ok((place, stamp));
        }
    }
    let hidden = place.begin()?;
    let identity = identity.at(&hidden.dir);
    let archive = fill(opened, &hidden, plan, &identity, &place, report)?;
    let stamp = stamp(image.as_ref(), archive.as_ref(), plan, &identity);
    describe::write(&hidden, image.as_ref(), &stamp, plan, &identity, report)?;
    match old {
        None => hidden.publish(&place)?,
        // A stream says only at its end that it brought what is there already.
        Some(old) if old.is_like(&stamp, plan.replace) => old.touch(&identity)?,
        Some(old) => old.replace(hidden, plan, &identity, report)?,
    }
    Ok((place, stamp))
}

/// What is at the place, if it is to be replaced.
fn old(place: &Place, plan: &Unpack) -> Result<Option<Old>> {
    let path = place.path.display();
    match (place.state()?, plan.replace) {
        (State::Free, _) => Ok(None),
        (State::Container, Replace::Keep | Replace::All) => Old::open(place).map(Some),
        (State::Container, Replace::Refuse) => {
            fail!(Exit::CantCreate, "cannot create {path}: it exists; --replace brings it to this image")
        }
        (State::Other, _) => fail!(Exit::CantCreate, "cannot create {path}: it exists and is no container directory"),
    }
}

fn fill(
    opened: Opened,
    hidden: &Hidden,
    plan: &Unpack,
    identity: &Identity,
    place: &Place,
    report: &Report,
) -> Result<Option<Digest>> {
    match plan.shape {
        Shape::Plain | Shape::Bundle => fill::rootfs(opened, hidden, plan, identity, report),
        Shape::Overlay => layers::overlay(opened, hidden, plan, identity, place, report).map(|()| None),
    }
}
