use super::*;

#[test]
fn a_command_that_takes_too_long_is_ended_with_its_family() {
    let started = Instant::now();
    // The inner shell would outlive the outer one if only that were ended.
    let run = Run::new("sh")
        .args(["-c", "sleep 61 & wait"])
        .limit(Duration::from_millis(200));
    let error = run.capture().err().map(|error| error.to_string()).unwrap();
    assert!(error.contains("did not end within"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_failed_command_is_named_with_what_it_said() {
    let error = Run::new("sh")
        .args(["-c", "echo no such thing >&2; exit 3"])
        .output()
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("exit status: 3") && text.contains("no such thing"),
        "{text}"
    );
}

#[test]
fn large_output_is_read_while_the_command_runs() {
    let captured = Run::new("head")
        .args(["-c", "3000000", "/dev/zero"])
        .capture()
        .unwrap();
    assert_eq!(captured.stdout.len(), 3_000_000);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = Run::new("no-such-program-here").output().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot start `no-such-program-here`")
    );
}

#[test]
fn installed_programs_are_found() {
    assert!(is_installed("sh"));
    assert!(!is_installed("no-such-program-here"));
}

#[test]
fn a_server_left_behind_does_not_hold_up_its_starter() {
    let started = Instant::now();
    let run = Run::new("sh").args(["-c", "echo started; sleep 5 & echo $! >&2"]);
    let captured = run.capture().unwrap();
    assert_eq!(captured.stdout, "started\n");
    assert!(started.elapsed() < Duration::from_secs(4));
    Run::new("kill")
        .arg(captured.stderr.trim())
        .output()
        .unwrap();
}

#[test]
fn output_is_seen_line_by_line_however_it_is_cut() {
    let mut seen = Vec::new();
    let mut lines = Lines::default();
    for part in ["a", "b\nc\n\nd", "", "e"] {
        lines.push(part.as_bytes(), &mut |line| seen.push(line.to_owned()));
    }
    lines.finish(&mut |line| seen.push(line.to_owned()));
    assert_eq!(seen, ["ab", "c", "de"]);
}
