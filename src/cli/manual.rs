//! `batchline man`: the manual, from the definition of the command line.
//!
//! In: the commands and their help. Out: pages in roff, one for the program and one for each command.

use std::io::Write;
use std::path::Path;

use batchline::storage::durable;
use batchline::storage::durable::{FileError, PendingFile};
use clap::CommandFactory;
use clap_mangen::Man;

use super::args::{Arguments, ManArguments};
use super::exit::{Exit, Failure};
use super::terminal::{StdoutError, print_text};

pub(crate) fn man(arguments: &ManArguments) -> Result<Exit, Failure> {
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    let Some(directory) = &arguments.directory else {
        let mut text = Vec::new();
        page(&program).render(&mut text).map_err(StdoutError)?;
        print_text(&text)?;
        return Ok(Exit::Success);
    };
    durable::create_shared_directory(directory)?;
    for command in std::iter::once(&program).chain(program.get_subcommands()) {
        write(&page(command), directory)?;
    }
    Ok(Exit::Success)
}

fn page(command: &clap::Command) -> Man {
    Man::new(command.clone()).manual("batchline")
}

fn write(page: &Man, directory: &Path) -> Result<(), FileError> {
    let path = directory.join(page.get_filename());
    let mut file = PendingFile::create_shared(&path)?;
    page.render(&mut file).and_then(|()| file.flush()).map_err(FileError::on("write", &path))?;
    file.publish_unsynced()
}
