//! Emulated credentials: user and group ids that the kernel would not let the targets have.
//!
//! setuid(2) and similar calls succeed, and getuid(2) and similar calls return what was set.
//! Nothing else follows: to the kernel all targets are the one user, so this keeps no target from a
//! file.
//!
//! **Where they are kept.** Children inherit credentials, whichever process forks them, and they
//! stay when a process executes a program. The kernel does just that with resource limits, and one
//! of them has had no meaning since Linux 2.4: `RLIMIT_LOCKS`. Its soft value is the number of an
//! identity here. The filter keeps callers from setting it.
//!
//! **Programs with set-id bits** change who executes them. No call shows that, so it is taken into
//! account at the next query: a process that runs such a program, and whose identity does not
//! say that this is accounted for, has the program's owner as effective user.
//!
//! Source: credentials(7), setresuid(2); `kernel/sys.c`.

use std::collections::BTreeMap;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::super::caps::{SETGID, SETUID};
use super::target::Target;
use crate::layer::owner;
use crate::sys::notify::Answer;
use crate::sys::process::{LIMIT_LOCKS, limits_of};

/// What numbers of identities begin at: no limit that a program would ask for.
const FIRST: u64 = 0x6275_696c_6465_0000;

/// Most identities of one command, lest it fill the builder's memory.
const IDENTITIES_MAX: usize = 1 << 16;

/// Most supplementary groups of one.
const GROUPS_MAX: usize = 1024;

/// One kind of id, four times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Ids {
    real: u32,
    effective: u32,
    saved: u32,
    /// What new files get.
    pub file: u32,
}

/// Who a process is.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Identity {
    pub user: Ids,
    pub group: Ids,
    groups: Vec<u32>,
    /// Whose set-id bits made it so.
    raised_by: Option<Program>,
    /// Which program asked to keep its capabilities when it leaves user 0 (`PR_SET_KEEPCAPS`).
    kept_by: Option<Program>,
    /// The number of what it executes, where a table has that, from 1 on.
    pub program: u32,
}

/// A program, by device and inode.
type Program = (u64, u64);

/// What a process executes.
#[derive(Debug, Clone, Copy)]
struct Executable {
    program: Program,
    /// Whom its set-id bits make of who executes it.
    user: Option<u32>,
    group: Option<u32>,
}

/// A call like setuid, for users or groups; -1 leaves an id as it is.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Change {
    One(u32),
    Two(u32, u32),
    Three(u32, u32, u32),
    File(u32),
}

/// A call about users or groups.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Query {
    Real,
    Effective,
    /// Three addresses.
    All([u64; 3]),
    Change(Change),
}

/// Users or groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Register {
    Users,
    Groups,
}

/// Size of an id in memory: calls of old 32-bit programs have two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Width {
    Two,
    Four,
}

/// The identities of one command's processes.
#[derive(Debug, Default)]
pub(in super::super) struct Credentials {
    known: Vec<Rc<Identity>>,
    numbers: BTreeMap<Rc<Identity>, u64>,
}

impl Credentials {
    /// Returns who a caller is.
    pub(in super::super) fn identity(&mut self, target: Target<'_>) -> Result<Rc<Identity>, Errno> {
        let pid = target.call.pid as i32;
        let (number, _) = limits_of(pid, LIMIT_LOCKS, None).map_err(|_| Errno::SRCH)?;
        let index = number.checked_sub(FIRST).and_then(|index| usize::try_from(index).ok());
        let known = index.and_then(|index| self.known.get(index)).cloned().unwrap_or_default();
        let now = known.running(&Executable::of(target)?);
        if now == *known { Ok(known) } else { self.become_(target, now) }
    }

    /// Returns who a caller is whose programs are noted when it executes them.
    pub(in super::super) fn noted(&self, pid: i32) -> Rc<Identity> {
        let number = limits_of(pid, LIMIT_LOCKS, None).map_or(0, |(number, _)| number);
        let index = number.checked_sub(FIRST).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.known.get(index)).cloned().unwrap_or_default()
    }

    /// Notes what a caller executes from now on, and whom the set-id bits of that make of it.
    pub(in super::super) fn executes(
        &mut self,
        target: Target<'_>,
        program: u32,
        (user, group): (Option<u32>, Option<u32>),
    ) -> Result<Rc<Identity>, Errno> {
        let mut identity = (*self.noted(target.call.pid as i32)).clone();
        identity.program = program;
        identity.kept_by = None;
        identity.user = user.map_or(identity.user, |owner| identity.user.raised(owner));
        identity.group = group.map_or(identity.group, |owner| identity.group.raised(owner));
        self.become_(target, identity)
    }

    /// Sets the ids of a target.
    fn become_(&mut self, target: Target<'_>, identity: Identity) -> Result<Rc<Identity>, Errno> {
        let identity = Rc::new(identity);
        let number = match self.numbers.get(&identity) {
            _ if *identity == Identity::default() => u64::MAX,
            Some(&number) => number,
            None if self.known.len() == IDENTITIES_MAX => return Err(Errno::AGAIN),
            None => {
                let number = FIRST + self.known.len() as u64;
                self.known.push(Rc::clone(&identity));
                self.numbers.insert(Rc::clone(&identity), number);
                number
            }
        };
        let pid = target.call.pid as i32;
        target.check()?;
        let (_, hard) = limits_of(pid, LIMIT_LOCKS, None).map_err(|_| Errno::SRCH)?;
        let soft = if number == u64::MAX { hard } else { number };
        limits_of(pid, LIMIT_LOCKS, Some(soft)).map_err(|_| Errno::PERM)?;
        Ok(identity)
    }

    /// Gives a caller an identity.
    pub(in super::super) fn set(
        &mut self,
        target: Target<'_>,
        identity: Identity,
    ) -> Result<Rc<Identity>, Errno> {
        self.become_(target, identity)
    }

    /// Records that the target's program keeps its capabilities; the kernel gets the call too.
    pub(in super::super) fn keep(
        &mut self,
        target: Target<'_>,
        keeps: bool,
    ) -> Result<Answer, Errno> {
        let identity = self.identity(target)?;
        let kept_by = if keeps { Some(Executable::of(target)?.program) } else { None };
        self.become_(target, Identity { kept_by, ..(*identity).clone() })?;
        Ok(Answer::Kernel)
    }

    /// Answers a call about users or groups.
    pub(in super::super) fn ask(
        &mut self,
        target: Target<'_>,
        which: Register,
        question: Query,
        width: Width,
    ) -> Result<Answer, Errno> {
        let identity = self.identity(target)?;
        let ids = match which {
            Register::Users => identity.user,
            Register::Groups => identity.group,
        };
        match question {
            Query::Real => Ok(Answer::Value(width.shown(ids.real).into())),
            Query::Effective => Ok(Answer::Value(width.shown(ids.effective).into())),
            Query::All(addresses) => {
                for (id, address) in [ids.real, ids.effective, ids.saved].into_iter().zip(addresses)
                {
                    target.write(&width.bytes(id), address)?;
                }
                Ok(Answer::Value(0))
            }
            Query::Change(change) => {
                let may_all = identity.may(target, which)?;
                // The one call of these that says what was, and never fails.
                if let Change::File(_) = change {
                    if let Some(after) = ids.change(change, may_all) {
                        self.become_(target, identity.with(which, after))?;
                    }
                    return Ok(Answer::Value(ids.file.into()));
                }
                let after = ids.change(change, may_all).ok_or(Errno::PERM)?;
                self.become_(target, identity.with(which, after))?;
                Ok(Answer::Value(0))
            }
        }
    }

    /// Fills a caller's list of supplementary groups, or says how many there are.
    pub(in super::super) fn groups(
        &mut self,
        target: Target<'_>,
        room: u64,
        list: u64,
        width: Width,
    ) -> Result<Answer, Errno> {
        let identity = self.identity(target)?;
        let count = identity.groups.len() as u64;
        // A count is a plain int, whatever the register has above it.
        let room = u64::from(room as u32);
        if room != 0 {
            if room < count || room > i32::MAX as u64 {
                return Err(Errno::INVAL);
            }
            let bytes: Vec<u8> = identity.groups.iter().flat_map(|&id| width.bytes(id)).collect();
            target.write(&bytes, list)?;
        }
        Ok(Answer::Value(count as i64))
    }

    /// Gives a caller other supplementary groups.
    pub(in super::super) fn set_groups(
        &mut self,
        target: Target<'_>,
        count: u64,
        list: u64,
        width: Width,
    ) -> Result<Answer, Errno> {
        let identity = self.identity(target)?;
        if !identity.may(target, Register::Groups)? {
            return Err(Errno::PERM);
        }
        let count = count as u32 as usize;
        if count > GROUPS_MAX {
            return Err(Errno::INVAL);
        }
        let mut bytes = vec![0; count * width.size()];
        target.read_exact(&mut bytes, list)?;
        let mut groups: Vec<u32> = bytes.chunks(width.size()).map(|id| width.read(id)).collect();
        groups.sort_unstable();
        self.become_(target, Identity { groups, ..(*identity).clone() })?;
        Ok(Answer::Value(0))
    }
}

impl Executable {
    fn of(target: Target<'_>) -> Result<Self, Errno> {
        let link = format!("{}/exe", target.call.pid);
        let stat = rustix::fs::statat(CWD, link.as_str(), AtFlags::empty())?;
        let has = |bits| stat.st_mode & bits == bits;
        let (user, group) = (has(libc::S_ISUID), has(libc::S_ISGID | libc::S_IXGRP));
        let owner = if user || group { owner::read(&link, FileType::RegularFile) } else { None };
        let owner = owner.unwrap_or((0, 0));
        Ok(Self {
            program: (stat.st_dev as u64, stat.st_ino),
            user: user.then_some(owner.0),
            group: group.then_some(owner.1),
        })
    }
}

impl Identity {
    /// Returns one of these ids.
    pub(in super::super) fn plain(uid: u32, gid: u32, groups: Vec<u32>) -> Self {
        let ids = |id| Ids { real: id, effective: id, saved: id, file: id };
        Self { user: ids(uid), group: ids(gid), groups, ..Self::default() }
    }

    /// Returns real and effective user and group.
    pub(in super::super) fn shown(&self) -> [u32; 4] {
        [self.user.real, self.user.effective, self.group.real, self.group.effective]
    }

    /// Returns who a process is that was this when its identity was last written down.
    fn running(&self, exe: &Executable) -> Self {
        let raises = exe.user.is_some() || exe.group.is_some();
        let mut now = self.clone();
        now.raised_by = raises.then_some(exe.program);
        now.kept_by = self.kept_by.filter(|&by| by == exe.program);
        if now.raised_by != self.raised_by {
            now.user = exe.user.map_or(now.user, |owner| now.user.raised(owner));
            now.group = exe.group.map_or(now.group, |owner| now.group.raised(owner));
        }
        now
    }

    /// Says whether a target may take any id.
    fn may(&self, target: Target<'_>, which: Register) -> Result<bool, Errno> {
        let needed = if which == Register::Users { SETUID } else { SETGID };
        let has_power = self.user.effective == 0 || self.kept_by.is_some();
        Ok(has_power && target.capabilities()? & needed != 0)
    }

    /// Says whether it may change an owner without being root: its own files' group, to one of its
    /// own.
    pub(in super::super) fn may_give(&self, before: (u32, u32), after: (u32, u32)) -> bool {
        let is_mine = |group| self.group.file == group || self.groups.contains(&group);
        before.0 == self.user.file
            && after.0 == before.0
            && (after.1 == before.1 || is_mine(after.1))
    }

    fn with(&self, which: Register, ids: Ids) -> Self {
        match which {
            Register::Users => Self { user: ids, ..self.clone() },
            Register::Groups => Self { group: ids, ..self.clone() },
        }
    }
}

impl Ids {
    /// Returns the ids after a program with a set-id bit was executed.
    fn raised(self, owner: u32) -> Self {
        Self { real: self.real, effective: owner, saved: owner, file: owner }
    }

    /// Returns the ids after a change; `None` where it is refused.
    fn change(self, change: Change, may_all: bool) -> Option<Self> {
        const KEEP: u32 = u32::MAX;
        let Self { real, effective, saved, file } = self;
        let or = |id, old| if id == KEEP { old } else { id };
        let allowed = |id, own: &[u32]| may_all || id == KEEP || own.contains(&id);
        let (real, effective, saved) = match change {
            Change::One(KEEP) => return None,
            Change::One(id) if may_all => (id, id, id),
            Change::One(id) if id == real || id == saved => (real, id, saved),
            Change::Two(r, e)
                if allowed(r, &[real, effective]) && allowed(e, &[real, effective, saved]) =>
            {
                let now = or(e, effective);
                let saves = r != KEEP || (e != KEEP && e != real);
                (or(r, real), now, if saves { now } else { saved })
            }
            Change::Three(r, e, s)
                if [r, e, s].iter().all(|&id| allowed(id, &[real, effective, saved])) =>
            {
                (or(r, real), or(e, effective), or(s, saved))
            }
            Change::File(id) if id != KEEP && allowed(id, &[real, effective, saved, file]) => {
                return Some(Self { file: id, ..self });
            }
            _ => return None,
        };
        Some(Self { real, effective, saved, file: effective })
    }
}

impl Width {
    fn size(self) -> usize {
        if self == Self::Two { 2 } else { 4 }
    }

    /// What the kernel says for an id that does not fit.
    fn shown(self, id: u32) -> u32 {
        if self == Self::Two && id > 0xffff { 0xfffe } else { id }
    }

    fn bytes(self, id: u32) -> Vec<u8> {
        match self {
            Self::Two => (self.shown(id) as u16).to_ne_bytes().to_vec(),
            Self::Four => id.to_ne_bytes().to_vec(),
        }
    }

    fn read(self, bytes: &[u8]) -> u32 {
        let mut id = [0; 4];
        // Both machines that we run on have the low byte first.
        id[..bytes.len()].copy_from_slice(bytes);
        self.id(u32::from_le_bytes(id).into())
    }

    /// Reads an id that was passed in a register.
    pub(in super::super) fn id(self, register: u64) -> u32 {
        match (self, register as u32) {
            (Self::Two, id) if id & 0xffff == 0xffff => u32::MAX,
            (Self::Two, id) => id & 0xffff,
            (Self::Four, id) => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: u32 = u32::MAX;

    fn ids(real: u32, effective: u32, saved: u32) -> Ids {
        Ids { real, effective, saved, file: effective }
    }

    #[test]
    fn ids_change_as_the_kernel_changes_them() {
        let (root, app, half) = (ids(0, 0, 0), ids(5, 5, 5), ids(5, 0, 0));
        for (before, change, may_all, after) in [
            (root, Change::One(5), true, Some(app)),
            (root, Change::Two(5, KEEP), true, Some(ids(5, 0, 0))),
            (root, Change::Two(KEEP, 5), true, Some(ids(0, 5, 5))),
            (root, Change::Three(KEEP, 5, KEEP), true, Some(ids(0, 5, 0))),
            (app, Change::One(0), false, None),
            (app, Change::One(KEEP), false, None),
            (app, Change::Three(KEEP, KEEP, 0), false, None),
            (app, Change::Three(KEEP, KEEP, KEEP), false, Some(app)),
            (half, Change::One(5), false, Some(ids(5, 5, 0))),
            (half, Change::Two(0, 5), false, Some(ids(0, 5, 5))),
            (half, Change::Two(KEEP, 5), false, Some(ids(5, 5, 0))),
            (ids(5, 5, 0), Change::Three(KEEP, 0, KEEP), false, Some(half)),
            (ids(5, 5, 0), Change::Two(0, KEEP), false, None),
            (root, Change::File(5), true, Some(Ids { file: 5, ..root })),
            (app, Change::File(0), false, None),
        ] {
            assert_eq!(before.change(change, may_all), after, "{before:?} {change:?}");
        }
        assert_eq!(app.raised(0), half);
    }

    #[test]
    fn a_set_id_program_raises_who_executes_it_once() {
        let plain = |number| Executable { program: (1, number), user: None, group: None };
        let sudo = Executable { user: Some(0), ..plain(2) };
        let app = Identity { user: ids(5, 5, 5), ..Identity::default() };
        assert_eq!(app.running(&plain(1)), app);
        let raised = app.running(&sudo);
        assert_eq!((raised.user, raised.group), (ids(5, 0, 0), app.group));
        let dropped = raised.with(Register::Users, ids(6, 6, 6));
        assert_eq!(dropped.running(&sudo), dropped, "it goes on as what it made of itself");
        let child = dropped.running(&plain(1));
        assert_eq!(child.user, ids(6, 6, 6));
        assert_eq!(child.running(&sudo).user, ids(6, 0, 0), "another one, by another user");
    }

    #[test]
    fn kept_capabilities_end_with_the_program() {
        let plain = |number| Executable { program: (1, number), user: None, group: None };
        let keeping = Identity { kept_by: Some((1, 1)), ..Identity::default() };
        assert_eq!(keeping.running(&plain(1)), keeping);
        assert_eq!(keeping.running(&plain(2)), Identity::default());
    }

    #[test]
    fn a_group_is_given_by_who_has_both() {
        let identity = Identity {
            user: ids(5, 5, 5),
            group: ids(6, 6, 6),
            groups: vec![7],
            ..Identity::default()
        };
        assert!(identity.may_give((5, 6), (5, 7)));
        assert!(identity.may_give((5, 9), (5, 6)));
        assert!(!identity.may_give((5, 6), (5, 8)), "not one of its groups");
        assert!(!identity.may_give((5, 6), (0, 6)), "only root gives files away");
        assert!(!identity.may_give((0, 6), (0, 7)), "not its file");
    }

    #[test]
    fn ids_of_two_bytes_are_widened_and_narrowed() {
        assert_eq!((Width::Two.id(0xffff), Width::Two.id(0x1_0005)), (KEEP, 5));
        assert_eq!((Width::Two.shown(70_000), Width::Four.shown(70_000)), (0xfffe, 70_000));
        assert_eq!((Width::Two.read(&[5, 1]), Width::Four.read(&[5, 1, 0, 0])), (0x105, 0x105));
        assert_eq!(Width::Two.bytes(0x105), [5, 1]);
    }
}
