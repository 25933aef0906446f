//! Which interfaces are guarded, and keeping it so while they come and go.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use portcullis_common::layout::Flow;
use serde::Serialize;

use super::{
    Enforcement, Hook, Interfaces, Kernel, KernelError, Reaction, Settings,
    attach::{Side, attach, detach, detach_clsact, detach_others, pin},
    connections::Reaper,
    links::{Link, links, matches},
    netns, pins,
    shed::{self, ShedAt},
};

/// One guarded interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// Its name.
    pub interface: String,
    /// Its number.
    pub index: u32,
    /// The hook.
    pub hook: Hook,
    /// An earlier daemon's attachment was taken over in place.
    pub adopted: bool,
    /// Its network namespace: see [`Link::namespace`].
    #[serde(skip)]
    namespace: u64,
}

/// How the kernel side stands; shared with whoever shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Guarded {
    /// Interfaces that are guarded.
    pub attached: Vec<Attachment>,
    /// Configured interfaces that are not there (yet).
    pub waiting: Vec<String>,
    /// Interfaces that match a pattern but where guard does not belong, and why.
    pub misplaced: BTreeMap<String, String>,
    /// `"strict"`, `"fast"` or `"observe"`.
    pub enforcement: &'static str,
    /// Guarded ports, as `port` or `address:port`.
    pub ports: Vec<String>,
    /// Instructions the verifier walked, by program.
    pub verified_instructions: BTreeMap<&'static str, u32>,
    /// Connections at guarded ports that were there before guard and still are.
    pub older_connections: usize,
    /// The same by port.
    pub older_by_port: BTreeMap<u16, usize>,
    /// Connections destroyed because their token was condemned.
    pub destroyed_connections: u64,
    /// Interfaces on which floods are shed.
    pub shed: Vec<ShedAt>,
    /// Interfaces on which they cannot be, and why.
    pub shed_failed: BTreeMap<String, String>,
}

impl Guarded {
    /// Notes the connections that were there before guard.
    pub(super) fn set_older(&mut self, flows: &[Flow]) {
        self.older_connections = flows.len();
        self.older_by_port.clear();
        for flow in flows {
            *self.older_by_port.entry(flow.destination_port).or_default() += 1;
        }
    }
}

/// A shared view of it.
pub type GuardedView = Arc<RwLock<Guarded>>;

/// An interface to be guarded.
#[derive(Clone, PartialEq, Eq)]
struct Target {
    namespace: Option<PathBuf>,
    link: Link,
    /// What people and pins call it.
    label: String,
}

/// What is to be done about the interfaces.
struct Plan {
    wanted: Vec<Target>,
    waiting: Vec<String>,
    misplaced: BTreeMap<String, String>,
}

impl Kernel {
    pub(super) fn attach_own(&mut self) -> Result<(), KernelError> {
        let plan = plan(&self.settings, false)?;
        let mut attached = Vec::new();
        for target in &plan.wanted {
            attached.push(self.attach_one(target)?);
        }
        self.settle(plan, attached)?;
        self.attach_gate()?;
        self.part_programs()?;
        self.view
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .verified_instructions
            .clone_from(&self.verified);
        if let Some(connections) = self.connections()? {
            let reaper = Reaper::start(connections, Arc::clone(&self.view), Arc::clone(&self.older))
                .map_err(|e| KernelError::io("start a thread that ends connections", e))?;
            self.reaper = Some(reaper);
        }
        let gone = pins::remove_replaced(&self.settings.pin_dir)?;
        if gone != 0 {
            tracing::info!("maps of an earlier daemon were replaced, without a gap");
        }
        Ok(())
    }

    pub(super) fn follow_own_interfaces(&mut self) -> Result<bool, KernelError> {
        // What is named and was there may be gone for a while: others that come need not wait for it.
        let plan = plan(&self.settings, true)?;
        let before = self.view().attached;
        let mut attached = Vec::new();
        let (mut new, mut failed) = (false, None);
        for target in &plan.wanted {
            let there = before.iter().find(|a| {
                (a.interface.as_str(), a.index, a.namespace)
                    == (target.label.as_str(), target.link.index, target.link.namespace)
            });
            if let Some(a) = there {
                attached.push(a.clone());
                continue;
            }
            new = true;
            match self.attach_one(target) {
                Ok(a) => {
                    tracing::info!(interface = a.interface, hook = ?a.hook, "guarded: it appeared");
                    attached.push(a);
                }
                Err(e) if failed.is_some() => tracing::error!(error = %e, "an interface is not guarded"),
                Err(e) => failed = Some(e),
            }
        }
        let gone = before.iter().any(|a| !plan.wanted.iter().any(|t| t.label == a.interface));
        for a in before.iter().filter(|a| !plan.wanted.iter().any(|t| t.label == a.interface)) {
            tracing::warn!(
                interface = a.interface,
                "the interface is gone; it is guarded again when it comes back"
            );
        }
        self.settle(plan, attached)?;
        failed.map_or(Ok(new || gone), Err)
    }

    /// Puts other settings in force, all or nothing: a fresh instance of the programs takes the place of the present
    /// one on each interface, with the same pinned maps.
    pub fn reconfigure(&mut self, settings: Settings) -> Result<(), KernelError> {
        let mut next = Self::load(settings)?;
        next.view = Arc::clone(&self.view);
        next.older = Arc::clone(&self.older);
        if let (Some(next), Some(before)) = (&mut next.beside, &self.beside) {
            next.view = Arc::clone(&before.view);
            next.older = Arc::clone(&before.older);
        }
        if let Err(e) = next.attach() {
            if let Err(e) = self.attach() {
                tracing::error!(error = %e, "the former settings could not be put back everywhere");
            }
            return Err(e);
        }
        // Who reads the counters reads the new programs'.
        self.places.put(next.places.take());
        next.places = self.places.clone();
        if let (Some(next), Some(before)) = (&mut next.beside, &self.beside) {
            before.places.put(next.places.take());
            next.places = before.places.clone();
        }
        *self = next;
        Ok(())
    }

    fn attach_one(&mut self, target: &Target) -> Result<Attachment, KernelError> {
        let label = &target.label;
        netns::within(target.namespace.as_ref(), || self.attach_here(target))
            .map_err(|e| KernelError::io(format!("enter the network namespace of `{label}`"), e))?
    }

    /// Attaches in the calling thread's network namespace.
    fn attach_here(&mut self, target: &Target) -> Result<Attachment, KernelError> {
        let how = self.settings.attach;
        let name = &target.link.name;
        let pin_dir = self.settings.pin_dir.clone();
        let pin = |side| pin(&pin_dir, &target.label, side);
        let (pin_in, pin_out) = (pin(Side::In), pin(Side::Out));
        self.places.add(target.link.index, &target.label)?;
        if self.is_strict() {
            // The way out first: a refusal knows what was answered from the first request on.
            attach(self.program("guard_egress")?, &target.link, Side::Out, how, (&pin_dir, &pin_out))?;
        }
        let (hook, adopted) =
            attach(self.program(self.guard)?, &target.link, Side::In, how, (&pin_dir, &pin_in))?;
        if !self.is_strict() {
            detach(name, Side::Out, &pin_out)?;
        }
        if !adopted {
            // Whatever stands there by its name is at another interface.
            shed::forget(&pin_dir, &target.label)?;
        }
        self.attach_shed(name, target.link.index, &target.label);
        let Link { index, namespace, .. } = target.link;
        Ok(Attachment { interface: target.label.clone(), index, hook, adopted, namespace })
    }

    fn settle(&mut self, plan: Plan, attached: Vec<Attachment>) -> Result<(), KernelError> {
        let mut keep: Vec<String> = plan.wanted.iter().map(|t| t.label.clone()).collect();
        // One that is waited for may be there by another name, and is guarded all the same.
        keep.extend(plan.waiting.iter().cloned());
        for interface in detach_others(&self.settings.pin_dir, &keep, self.is_strict())? {
            tracing::warn!(interface, "no longer configured: guard detached");
        }
        shed::detach_others(&self.settings.pin_dir, if self.sheds() { &keep } else { &[] })?;
        let s = &self.settings;
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        for (name, why) in &plan.misplaced {
            if !view.misplaced.contains_key(name) {
                tracing::warn!(interface = name, "not guarded: {why}");
            }
        }
        for name in &plan.waiting {
            if !view.waiting.contains(name) {
                tracing::warn!(interface = name, "it is not there; it is guarded when it comes");
            }
        }
        let sheds = self.sheds();
        view.shed.retain(|s| sheds && keep.contains(&s.interface));
        view.shed_failed.retain(|interface, _| sheds && keep.contains(interface));
        view.attached = attached;
        view.waiting = plan.waiting;
        view.misplaced = plan.misplaced;
        view.enforcement = match (s.reaction, s.enforcement) {
            (Reaction::Observe, _) => "observe",
            (_, Enforcement::Strict) => "strict",
            (_, Enforcement::Fast) => "fast",
        };
        view.ports = s
            .ports
            .iter()
            .map(|p| {
                p.address
                    .map_or_else(|| p.port.to_string(), |a| std::net::SocketAddr::new(a, p.port).to_string())
            })
            .collect();
        view.verified_instructions.clone_from(&self.verified);
        Ok(())
    }

    /// A view that follows what is attached.
    pub fn guarded(&self) -> GuardedView {
        Arc::clone(&self.view)
    }

    fn view(&self) -> Guarded {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Settles which interfaces there are to guard. What is not there, or not where guard belongs, is no error where
/// interfaces are `followed`.
fn plan(s: &Settings, followed: bool) -> Result<Plan, KernelError> {
    let mut plan = Plan { wanted: Vec::new(), waiting: Vec::new(), misplaced: BTreeMap::new() };
    for pattern in &s.interfaces {
        let exact = !pattern.name.contains('*');
        let there = match links_of(pattern.namespace.as_ref()) {
            // The namespace is not there: nor are its interfaces.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            there => there.map_err(|e| {
                KernelError::io(
                    format!("list the network interfaces for `{}`", pattern.label(&pattern.name)),
                    e,
                )
            })?,
        };
        let found: Vec<&Link> = there.iter().filter(|l| matches(&pattern.name, &l.name)).collect();
        if exact && found.is_empty() {
            let interface = pattern.label(&pattern.name);
            if !s.wait_for_interfaces && !followed {
                return Err(KernelError::NoInterface { interface });
            }
            plan.waiting.push(interface);
        }
        for link in found {
            let label = pattern.label(&link.name);
            let target = Target { namespace: pattern.namespace.clone(), link: link.clone(), label };
            // In a namespace that was named, an interface is what it is said to be.
            let misplaced = link.misplaced.filter(|_| !s.container_veth && pattern.namespace.is_none());
            if let Some(why) = misplaced {
                if exact && !followed {
                    return Err(KernelError::Misplaced { interface: link.name.clone(), why });
                }
                plan.misplaced.insert(link.name.clone(), why.to_owned());
            } else if !plan.wanted.contains(&target) {
                plan.wanted.push(target);
            }
        }
    }
    Ok(plan)
}

fn links_of(namespace: Option<&PathBuf>) -> io::Result<Vec<Link>> {
    netns::within(namespace, links)?
}

/// Whether nothing is pinned in a directory, or it is not there.
pub fn is_unpinned(pin_dir: &Path) -> bool {
    pins::list(pin_dir).is_ok_and(|all| all.is_empty())
}

/// Takes away what is pinned in a directory, and the directory. Filters that are attached without a pin stay.
pub fn unpin_all(pin_dir: &Path) -> Result<(), KernelError> {
    pins::remove_all(pin_dir)
}

/// Takes everything away: links, filters, maps and their directory. Enforcement ends.
pub fn detach_all(pin_dir: &Path, interfaces: &[Interfaces]) -> Result<(), KernelError> {
    for pattern in interfaces {
        // Where a namespace is gone, so is all that was in it.
        let _ = netns::within(pattern.namespace.as_ref(), || {
            for link in links().unwrap_or_default().iter().filter(|l| matches(&pattern.name, &l.name)) {
                detach_clsact(&link.name, Side::In);
                detach_clsact(&link.name, Side::Out);
            }
        });
    }
    pins::remove_all(pin_dir)
}
