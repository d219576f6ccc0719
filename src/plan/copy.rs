//! COPY and ADD: what is copied, from which tree, and as whose.

use super::dispatch::Planner;
use super::stages::{Index, StageCommand, place_of};
use super::step::{ContextId, Copy, CopySource, Op, Tree};
use super::{PlanError, paths, words};
use crate::dockerfile::ast::{self, Word};
use crate::show;

impl Planner<'_, '_> {
    pub(super) fn copy(
        &mut self,
        index: Index,
        number: usize,
        command: &StageCommand,
        copy: CopyLike<'_>,
    ) -> Result<(), PlanError> {
        let instruction = &*command.instruction;
        let place = place_of(instruction);
        let escape = self.escape();
        let transfer = copy.transfer();
        let optional = |planner: &mut Self, word: Option<&Word>| match word {
            Some(word) => planner.expand(index, word, place).map(|t| (!t.is_empty()).then_some(t)),
            None => Ok(None),
        };
        let chown = optional(self, copy.chown())?;
        let chmod = optional(self, copy.chmod())?;
        let checksum = optional(self, copy.checksum())?;
        let names = self.expand_all(index, &transfer.sources, place)?;
        let dest = self.expand(index, &transfer.dest, place)?;

        let mut message = copy.keyword().to_owned();
        if copy.keeps_parents() {
            message += " --parents";
        }
        if let Some(chown) = &chown {
            message += &format!(" --chown={chown}");
        }
        if let Some(chmod) = &chmod {
            message += &format!(" --chmod={chmod}");
        }
        let mut sources = Vec::with_capacity(names.len() + transfer.inline.len());
        for (name, word) in names.into_iter().zip(&transfer.sources) {
            message += &format!(" {name}");
            sources.push(words::copy_source(name, copy.is_add(), place.at(word))?);
        }
        if checksum.is_some() {
            let is_remote =
                sources.iter().all(|s| matches!(s, CopySource::Url(_) | CopySource::Git(_)));
            if sources.len() != 1 {
                return Err(place.error("checksum can't be specified for multiple sources").into());
            }
            if !is_remote {
                return Err(place.error("checksum requires HTTP(S) or Git sources").into());
            }
        }
        for inline in &transfer.inline {
            let heredoc = &inline.heredoc;
            let data = if heredoc.expand {
                words::expand_body(heredoc, place, &self.state(index).env)?.into_bytes()
            } else {
                heredoc.content()
            };
            message += &format!(" <<{}", heredoc.name);
            sources.push(CopySource::Inline { name: heredoc.name.clone(), data });
        }
        message += &format!(" {dest}");

        let tree = match command.sources.first().copied().flatten() {
            Some(source) => {
                let files = self.files_of(source, index, place, "copy")?;
                self.tree_or_context(Some(source), Some(Tree::Files(files)))
                    .unwrap_or(Tree::Files(files))
            }
            None => Tree::Context(ContextId(0)),
        };
        if let Some(chmod) = &chmod {
            words::check_chmod(chmod).map_err(|text| place.error(text))?;
        }
        let state = self.state(index);
        let op = Op::Copy(Box::new(Copy {
            is_add: copy.is_add(),
            tree,
            sources,
            dest: paths::destination(state.config.working_dir(), &dest),
            chown,
            // With `--chmod`, BuildKit makes an ordinary copy (convert_copy.go, dispatchCopy).
            is_link: copy.is_link() && chmod.is_none(),
            chmod,
            keeps_parents: copy.keeps_parents(),
            excludes: copy.excludes().iter().map(|word| word.text.clone()).collect(),
            checksum,
            keep_git_dir: copy.keep_git_dir(),
            unpack: copy.unpack(),
        }));
        let shown = words::show(&instruction.origin.original, &state.env, escape);
        let id = self.step(index, number, command, &shown, op);
        self.state(index).commit(format!("{} # buildkit", show::addresses(&message)), Some(id));
        Ok(())
    }
}

/// COPY and ADD, which differ in their flags.
#[derive(Clone, Copy)]
pub(super) enum CopyLike<'a> {
    Copy(&'a ast::Copy),
    Add(&'a ast::Add),
}

impl<'a> CopyLike<'a> {
    fn transfer(&self) -> &'a ast::Transfer {
        match self {
            Self::Copy(copy) => &copy.transfer,
            Self::Add(add) => &add.transfer,
        }
    }

    fn keyword(&self) -> &'static str {
        if self.is_add() { "ADD" } else { "COPY" }
    }

    fn is_add(&self) -> bool {
        matches!(self, Self::Add(_))
    }

    fn chown(&self) -> Option<&'a Word> {
        match self {
            Self::Copy(copy) => copy.chown.as_ref(),
            Self::Add(add) => add.chown.as_ref(),
        }
    }

    fn chmod(&self) -> Option<&'a Word> {
        match self {
            Self::Copy(copy) => copy.chmod.as_ref(),
            Self::Add(add) => add.chmod.as_ref(),
        }
    }

    fn is_link(&self) -> bool {
        match self {
            Self::Copy(copy) => copy.link,
            Self::Add(add) => add.link,
        }
    }

    fn keeps_parents(&self) -> bool {
        matches!(self, Self::Copy(copy) if copy.parents)
    }

    fn excludes(&self) -> &'a [Word] {
        match self {
            Self::Copy(copy) => &copy.exclude,
            Self::Add(add) => &add.exclude,
        }
    }

    fn checksum(&self) -> Option<&'a Word> {
        match self {
            Self::Copy(_) => None,
            Self::Add(add) => add.checksum.as_ref(),
        }
    }

    fn keep_git_dir(&self) -> Option<bool> {
        match self {
            Self::Copy(_) => None,
            Self::Add(add) => add.keep_git_dir,
        }
    }

    fn unpack(&self) -> Option<bool> {
        match self {
            Self::Copy(_) => None,
            Self::Add(add) => add.unpack,
        }
    }
}
