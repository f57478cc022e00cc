//! Walks at random: far deeper than a search of all states can go, with everything allowed at once.

use raft_core::random::Random;

use crate::action::Action;
use crate::broken::Broken;
use crate::cases::WALKS;
use crate::model::Model;
use crate::search::Counterexample;
use crate::state::{Read, State};

/// What walks went through.
#[derive(Default)]
pub(crate) struct Walked {
    pub(crate) steps: u64,
    pub(crate) elections: u64,
    pub(crate) commits: u64,
    pub(crate) grants: u64,
    /// Reads under a lease that have been answered, or were bound to be answered right.
    pub(crate) reads: u64,
    pub(crate) restarts: u64,
    pub(crate) changes: u64,
}

/// One walk. The seed draws the bounds too.
pub(crate) fn walk(seed: u64, steps: u64, broken: Option<Broken>, walked: &mut Walked) -> Option<Counterexample> {
    let random = &mut Random::new(seed);
    let model = Model::new(WALKS[random.below(WALKS.len() as u64) as usize], broken);
    let mut state = State::first(&model.bounds);
    let (mut trace, mut actions) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        model.actions(&state, &mut actions);
        let action = draw(&actions, random);
        trace.push(action);
        match model.step(&state, action) {
            Ok(next) => {
                walked.count(action, &state, &next);
                state = next;
            }
            Err(violation) => return Some(Counterexample { violation, model, trace }),
        }
    }
    None
}

/// Draws a kind of action and then one of that kind: there are many appends to choose from, and few commits.
fn draw(actions: &[Action], random: &mut Random) -> Action {
    loop {
        let (kind, frequent) = KINDS[random.below(KINDS.len() as u64) as usize];
        let of_kind = actions.iter().filter(|action| kind(action));
        let count = of_kind.clone().count() as u64;
        if count > 0 && random.below(8) < frequent {
            let number = random.below(count) as usize;
            return *of_kind.clone().nth(number).expect("the number is below the count");
        }
    }
}

type Kind = fn(&Action) -> bool;

/// What a kind of actions is, and how often of eight times it is taken when it is drawn: what ends a leadership is rarer
/// than what is done in one.
const KINDS: &[(Kind, u64)] = &[
    (|action| matches!(action, Action::Tick(_)), 2),
    (|action| matches!(action, Action::Campaign(_)), 1),
    (|action| matches!(action, Action::Restart(_)), 1),
    (|action| matches!(action, Action::Change(_)), 1),
    (|action| matches!(action, Action::Vote { .. }), 8),
    (|action| matches!(action, Action::Write(_)), 4),
    (|action| matches!(action, Action::Append { .. }), 8),
    (|action| matches!(action, Action::Send { .. }), 2),
    (|action| matches!(action, Action::Arrive), 4),
    (|action| matches!(action, Action::Acknowledged { .. }), 8),
    (|action| matches!(action, Action::Round(_)), 4),
    (|action| matches!(action, Action::Commit { .. }), 8),
    (|action| matches!(action, Action::Grant { .. }), 8),
    (|action| matches!(action, Action::Granted(_)), 8),
    (|action| matches!(action, Action::LookAtClock(_)), 4),
    (|action| matches!(action, Action::Check(_)), 8),
    (|action| matches!(action, Action::Note(_)), 8),
];

impl Walked {
    fn count(&mut self, action: Action, before: &State, after: &State) {
        self.steps += 1;
        self.elections += u64::from(before.elected != after.elected);
        match action {
            Action::Commit { .. } => self.commits += 1,
            Action::Granted(_) => self.grants += 1,
            Action::Restart(_) => self.restarts += 1,
            Action::Change(_) => self.changes += 1,
            _ => {}
        }
        let noted_last = matches!(action, Action::Note(_) | Action::Check(_));
        self.reads += u64::from(noted_last && before.read != Read::None && after.read == Read::None);
    }
}
