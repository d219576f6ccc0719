//! Steps and listings for the tests of this room.

use crate::cache::{Inputs, TreeEntry};
use crate::history::{About, BuildId, BuildRecord, Origin, Outcome, StepOutcome, StepRecord};

/// A step that hit, with the instruction as its only input.
pub(super) fn step(number: usize, stage: &str, instruction: &str) -> StepRecord {
    let mut inputs = Inputs::new();
    inputs.text("argv", instruction);
    StepRecord {
        number,
        name: format!("[{stage} {}/9] {instruction}", number + 1),
        stage: stage.into(),
        platform: String::new(),
        targets: Vec::new(),
        instruction: instruction.into(),
        lines: (number as u32 + 2, number as u32 + 2),
        from: match number {
            0 => Origin::Scratch,
            _ => Origin::Step { number: number - 1 },
        },
        reads: Vec::new(),
        key: Some(inputs.key()),
        parent: None,
        inputs,
        outcome: StepOutcome::NotReached,
        miss: None,
        is_unsound: false,
        emulator: None,
        output: None,
        began_us: 0,
        wall_us: 0,
    }
}

pub(super) fn entry(path: &str, mode: u32, content: &str) -> TreeEntry {
    TreeEntry {
        path: path.into(),
        kind: "file".into(),
        mode,
        owner: None,
        size: Some(content.len() as u64),
        content: Some(content.into()),
    }
}

/// A finished build of one place.
pub(super) fn build(id: i64, steps: Vec<StepRecord>) -> BuildRecord {
    BuildRecord {
        id: BuildId::at(id),
        about: About {
            started_ms: id,
            context: "/src/app".into(),
            dockerfile: "Dockerfile".into(),
            target: "build".into(),
            platform: "linux/amd64".into(),
            ..About::default()
        },
        finished_ms: Some(id + 1),
        outcome: Outcome::Ok,
        image: None,
        manifest: None,
        is_imported: false,
        notes: Vec::new(),
        steps,
    }
}
