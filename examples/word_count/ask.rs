//! Questions to an instance, a line each, and its answers. In a service this would be an endpoint.

use mainstem::AppHandle;
use mainstem::prelude::*;
use mainstem::query::ReadOnlyKeyValueStore;
use tokio::sync::oneshot;

/// Answers the lines of the standard input on a thread of their own. What is returned resolves when there are no more.
pub(crate) fn answer(handle: &AppHandle) -> Result<oneshot::Receiver<()>> {
    let (handle, counts) = (handle.clone(), handle.key_value_store::<String, i64>("counts")?);
    let (over, is_over) = oneshot::channel();
    std::thread::spawn(move || {
        for question in std::io::stdin().lines().map_while(std::result::Result::ok) {
            println!("{}", answer_to(&question, &handle, &counts));
        }
        // Nobody listens if the application has ended by itself.
        let _ = over.send(());
    });
    Ok(is_over)
}

fn answer_to(question: &str, handle: &AppHandle, counts: &ReadOnlyKeyValueStore<String, i64>) -> String {
    match question.split_once(' ') {
        Some(("get", word)) => match counts.get(&word.to_owned()) {
            Ok(Some(count)) => format!("count {count}"),
            Ok(None) => "none".to_owned(),
            Err(error) => format!("cannot say: {error}"),
        },
        // How many tasks it runs, and how many records of their inputs are not committed.
        None if question == "lag" => {
            let tasks: Vec<_> = handle.tasks().into_iter().filter(|task| task.running).collect();
            let inputs = tasks.iter().flat_map(|task| &task.inputs);
            let lag: i64 =
                inputs.map(|input| input.end.unwrap_or(i64::MAX / 1000) - input.committed.unwrap_or(0)).sum();
            format!("{} {lag}", tasks.len())
        }
        _ => "ask \"get WORD\" or \"lag\"".to_owned(),
    }
}
