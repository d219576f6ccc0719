//! What a command needs of the process that runs it.

use super::Command;
use super::index::IndexCommand;

/// Says whether a command may touch the files of layers, whose owners need a user namespace where a
/// user keeps them; all others run as they are started.
pub(super) fn touches_layers(command: &Command) -> bool {
    match command {
        Command::Buildx(_)
        | Command::Completions(_)
        | Command::Config(_)
        | Command::Dev { .. }
        | Command::History(_)
        | Command::Images(_)
        | Command::Index(IndexCommand::Inspect(_))
        | Command::Inspect(_)
        | Command::Login(_)
        | Command::Logout(_)
        | Command::Man(_)
        | Command::Plugin(_)
        | Command::Tag(_)
        | Command::Version(_) => false,
        Command::Build(_)
        | Command::Check(_)
        | Command::Copy(_)
        | Command::Df(_)
        | Command::Diff(_)
        | Command::Doctor(_)
        | Command::Explain(_)
        | Command::Import(_)
        | Command::Index(_)
        | Command::Kaniko(_)
        | Command::Load(_)
        | Command::Manifest(_)
        | Command::Mounts(_)
        | Command::Prune(_)
        | Command::Pull(_)
        | Command::Push(_)
        | Command::Rmi(_)
        | Command::Run(_)
        | Command::Save(_)
        | Command::Store(_) => true,
    }
}
