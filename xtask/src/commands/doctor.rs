//! `doctor`: looks at the machine; with `--fix`, mends it.

use anyhow::Result;
use console::Style;

use crate::cli::Doctor;
use crate::env::Env;
use crate::exit::Exit;
use crate::setup::{self, Level, Mend};

pub(super) async fn run(args: &Doctor, env: &Env) -> Result<Exit> {
    let session = super::session(env, None)?;
    if args.fix {
        let machine = session.machine(true).await?;
        let step = session.events.step(crate::events::Phase::Setup, "node image");
        let maker = session.maker(&machine, true);
        let spec = session.tools.node_image.spec();
        let (reference, _) = crate::images::source::ensure(&maker, "node", &spec, &step).await?;
        step.done(reference);
    }
    let context = session.setup(Mend::No);
    let findings = setup::look(context).await;
    for finding in &findings {
        let (mark, style) = match finding.level {
            Level::Good => ("ok     ", Style::new().green()),
            Level::Warning => ("warning", Style::new().yellow()),
            Level::Problem => ("PROBLEM", Style::new().red().bold()),
        };
        println!("{} {finding}", style.apply_to(mark));
    }
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    if problems > 0 {
        println!(
            "\n{}; `cargo xtask doctor --fix` mends what it can",
            crate::text::count(problems, "problem")
        );
        return Ok(Exit::Environment);
    }
    Ok(Exit::Passed)
}
