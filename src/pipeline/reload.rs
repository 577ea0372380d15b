//! A reload's steps: begin a generation, close the present one, switch to the one that was built, or give it up.
//!
//! The new generation is built by a pipeline of [`Lane::Reload`], while others carry the present one. Its files are found
//! by listing, once more after the present one was closed: what was acknowledged until then stands in the listing, and
//! nothing is acknowledged after that. So each file since the cut-over is in it.

use crate::change::{FileKind, TableName};
use crate::config::{Mode, TargetRules};
use crate::error::{Error, Result};
use crate::ledger::{Reload, SetAside, not_built};
use crate::pipeline::report::TableReport;
use crate::pipeline::table_run::{Merging, TableRun};
use crate::pipeline::{Lane, Pipeline, setup};
use crate::trial::failpoint;

/// Whether a switch may lose files that the generation before has, or that are of the load: those that could not be used
/// for the new one, or vanished before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Losses {
    /// It may not.
    Refused,
    /// A person says that it may.
    Accepted,
}

impl Pipeline {
    /// Begins a generation of the table's files since this time, by default since now; one that is being built stays.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the table cannot be reloaded so.
    pub async fn begin_reload(&self, table: &TableName, cut_over_ms: Option<i64>) -> Result<Reload> {
        let mut run = self.open_table(Lane::Present, table).await?;
        match run.ledger().rules().map(|rules| rules.mode) {
            Some(Mode::Merge) => run.ledger().begin_reload(cut_over_ms).await,
            Some(_) => {
                Err(Error::user("a table of mode `append` keeps every change, so that there is nothing to replace")
                    .in_table(table)
                    .hint("give the table another `target` and carry its files anew with `freshet backfill`"))
            }
            None => Err(Error::user("nothing was ever carried to the table")
                .in_table(table)
                .hint("a first load needs no reload: `freshet run` carries it")),
        }
    }

    /// The generation of the table that is being built; None where none is.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the table's chain is damaged.
    pub async fn reload_of(&self, table: &TableName) -> Result<Option<Reload>> {
        Ok(self.open_table(Lane::Present, table).await?.ledger().state().reload().cloned())
    }

    /// Whether it is decided that a generation takes the table's place: from then on nothing is asked, only finished.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where its chain is damaged.
    pub async fn is_decided(&self, table: &TableName, reload: &Reload) -> Result<bool> {
        let built = self.open_table(Lane::Reload(reload.clone()), table).await?;
        Ok(built.ledger.state().is_closed() && !built.ledger.state().is_abandoned())
    }

    /// Makes the generation that is being built the present one; `carry` carries every file that is there into it, and
    /// tells whether all could be. May be repeated, and goes on where it was broken off.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where it is not being built any more, or is not whole; those of sink and ledger.
    pub async fn complete_reload<F: Future<Output = Result<bool>>>(
        &self,
        table: &TableName,
        reload: &Reload,
        losses: Losses,
        carry: impl Fn() -> F,
    ) -> Result<bool> {
        let built = self.open_table(Lane::Reload(reload.clone()), table).await?;
        // Where it was broken off in the switch, what has come since is of the table itself.
        if built.ledger.state().is_abandoned() || !built.ledger.state().is_closed() {
            if !carry().await? {
                return Ok(false);
            }
            // What cannot be is told while the reload can still be given up.
            Box::pin(self.demand_switchable(table, reload, losses)).await?;
            Box::pin(self.close_present(table, reload)).await?;
            if !carry().await? {
                return Ok(false);
            }
        }
        Box::pin(self.switch(table, reload, losses)).await?;
        Ok(true)
    }

    /// This pipeline, carrying files into a generation that is being built.
    pub fn for_reload(&self, reload: &Reload) -> Self {
        Self { lane: Lane::Reload(reload.clone()), ..self.clone() }
    }

    /// Demands that the switch would lose no file and that the sink could make it.
    async fn demand_switchable(&self, table: &TableName, reload: &Reload, losses: Losses) -> Result<()> {
        let built = self.open_table(Lane::Reload(reload.clone()), table).await?;
        let mut present = self.open_table(Lane::Present, table).await?;
        let lacking = present.ledger().lacking(built.ledger.state()).await?;
        let is_load = |aside: &&SetAside| aside.file.kind == FileKind::Load;
        let lacking = lacking.max(built.ledger.state().set_aside().iter().filter(is_load).count());
        if lacking > 0 && losses == Losses::Refused {
            let what =
                format!("{lacking} files could not be used for the new generation, and would be lost by the switch");
            return Err(Error::user(what)
                .in_table(table)
                .hint("mend the cause, give it up with --abandon and reload again; or switch all the same with --accept-losses"));
        }
        let (from, to) = (built.target(&rules_of(&built)?), present.target(&rules_of(&present)?));
        self.sink.fit(&from, &to, &present.session).await
    }

    /// Sees to it that nothing is begun any more in the present generation, and finishes what is open in it.
    async fn close_present(&self, table: &TableName, reload: &Reload) -> Result<()> {
        let mut run = self.open_table(Lane::Present, table).await?;
        run.ledger().close(reload.generation).await?;
        failpoint::GENERATION_CLOSED.reached();
        finish(&mut run).await
    }

    /// Makes the generation that was built the present one, and deletes what it was built in.
    async fn switch(&self, table: &TableName, reload: &Reload, losses: Losses) -> Result<()> {
        let mut built = self.open_table(Lane::Reload(reload.clone()), table).await?;
        finish(&mut built).await?;
        if !built.ledger.state().is_closed() {
            Box::pin(self.demand_switchable(table, reload, losses)).await?;
        }
        built.ledger().close(reload.generation).await?;
        failpoint::RELOAD_CLOSED.reached();
        finish(&mut built).await?;
        let mut present = self.open_table(Lane::Present, table).await?;
        if present.ledger.state().reload() != Some(reload) || !present.ledger.state().is_closed() {
            // Another process has switched meanwhile, which also cleans up.
            return Err(not_built(reload.generation).in_table(table));
        }
        let (from, to) = (built.target(&rules_of(&built)?), present.target(&rules_of(&present)?));
        self.sink.switch(&from, &reload.id, &to, &built.session).await?;
        present.ledger().switch_to(built.ledger.state()).await?;
        self.sink.discard(&from).await?;
        built.ledger().retire().await
    }

    /// Gives up the generation that is being built, and deletes what it was built in; None where none is.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where it may have taken the present one's place already.
    pub async fn abandon_reload(&self, table: &TableName) -> Result<Option<Reload>> {
        let Some(reload) = self.reload_of(table).await? else { return Ok(None) };
        let mut built = self.open_table(Lane::Reload(reload.clone()), table).await?;
        built.ledger().abandon(&reload).await?;
        let mut present = self.open_table(Lane::Present, table).await?;
        present.ledger().abandon(&reload).await?;
        self.sink.discard(&built.target(&rules_of(&built)?)).await?;
        built.ledger().retire().await?;
        Ok(Some(reload))
    }

    async fn open_table(&self, lane: Lane, table: &TableName) -> Result<TableRun> {
        let runtime = setup::runtime(&self.config, self.memory.table_pool())?;
        TableRun::open(Self { lane, ..self.clone() }, table, runtime).await
    }
}

/// Commits and merges until nothing is open that can be finished.
async fn finish(run: &mut TableRun) -> Result<()> {
    run.round([], Merging::Now, &mut TableReport::default()).await?;
    let state = run.ledger.refresh().await?;
    if state.open_intents().next().is_none() && state.open_merge().is_none() {
        return Ok(());
    }
    Err(Error::retry("other processes keep carrying files of the generation").in_table(&run.table))
}

/// What the target keeps of the changes: a table that is reloaded has rules.
fn rules_of(run: &TableRun) -> Result<TargetRules> {
    run.ledger.rules().cloned().ok_or_else(|| Error::bug("a table without rules was reloaded").in_table(&run.table))
}
