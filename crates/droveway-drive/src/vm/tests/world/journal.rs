//! The journal of the two QEMUs' controller.

use super::super::super::*;

/// What a journal knows of the attempt: intents before they are carried out, replies and records as they come.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    pub(super) migrate: Told,
    pub(super) postcopy_prepared: bool,
    pub(super) postcopy_asked: bool,
    pub(super) undoing: bool,
    pub(super) releasing: bool,
    /// The id of `migrate`, while its reply is awaited.
    open: Option<ActionId>,
}

impl Journal {
    pub(super) fn new() -> Self {
        Journal {
            migrate: Told::Never,
            postcopy_prepared: false,
            postcopy_asked: false,
            undoing: false,
            releasing: false,
            open: None,
        }
    }

    pub(super) fn intend(&mut self, id: ActionId, action: &Action) {
        match action {
            Action::Configure { postcopy, .. } => self.postcopy_prepared = *postcopy,
            Action::Migrate { .. } => {
                (self.migrate, self.open) = (Told::Perhaps, Some(id));
            }
            Action::StartPostcopy => self.postcopy_asked = true,
            Action::DestroyTarget => self.undoing = true,
            Action::DestroySource => self.releasing = true,
            _ => {}
        }
    }

    pub(super) fn reply(&mut self, id: ActionId, reply: &Result<Reply, ActionError>) {
        if self.open == Some(id) && reply.is_ok() {
            self.migrate = Told::Surely;
        }
    }
}
