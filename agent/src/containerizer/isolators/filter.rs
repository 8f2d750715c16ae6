//! From a table of answers to the program that the kernel asks about every system call.
//!
//! A tree of comparisons, as the kernel runs the program once for each of its some 900 calls
//! whenever a filter is installed, to learn which ones it always allows: with a chain of
//! comparisons that made a launch a tenth dearer. (So no filter crate: they emit chains.)

use std::collections::BTreeMap;

use nix::libc;

use super::super::sys::Instruction;

/// What a system call is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// `EPERM`.
    Refuse,
    /// `EPERM` when its first argument has any of these bits.
    RefuseFlag(u32),
    /// `ENOSYS`, as by a kernel that is too old.
    Missing,
}

/// Where `struct seccomp_data` has the call's number, the processor and the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT: u32 = 16;

/// x86-64 has every call a second time under numbers from here on (x32).
const X32: u32 = 0x4000_0000;

/// `AUDIT_ARCH_*` of this processor; `None` where no filter was ever tried.
const fn architecture() -> Option<u32> {
    if cfg!(target_arch = "x86_64") {
        Some(0xc000_003e)
    } else if cfg!(target_arch = "aarch64") {
        Some(0xc000_00b7)
    } else {
        None
    }
}

/// A place that a comparison leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Next,
    At(usize),
    Allow,
    To(Answer),
}

#[derive(Debug)]
enum Step {
    Load(u32),
    Test(u32, u32, Goal, Goal),
    Jump(Goal),
    Return(u32),
}

/// The program: calls are allowed unless `answers` says otherwise, and calls by the numbers of
/// another processor (32-bit programs) are missing. `None` where there is none for this processor.
pub(super) fn filter(answers: &BTreeMap<i64, Answer>) -> Option<Vec<Instruction>> {
    let table: Vec<(u32, Answer)> = answers
        .iter()
        .filter_map(|(number, answer)| Some((u32::try_from(*number).ok()?, *answer)))
        .collect();
    let missing = Goal::To(Answer::Missing);
    let mut steps = vec![
        Step::Load(ARCHITECTURE),
        Step::Test(libc::BPF_JEQ, architecture()?, Goal::Next, missing),
        Step::Load(NUMBER),
    ];
    if cfg!(target_arch = "x86_64") {
        steps.push(Step::Test(libc::BPF_JGE, X32, missing, Goal::Next));
    }
    tree(&table, &mut steps);
    assemble(steps)
}

fn tree(table: &[(u32, Answer)], steps: &mut Vec<Step>) {
    let (left, right) = table.split_at(table.len() / 2);
    match (right.first(), table.len()) {
        (Some((pivot, _)), 4..) => {
            let test = steps.len();
            steps.push(Step::Jump(Goal::Next));
            tree(left, steps);
            let right_at = Goal::At(steps.len());
            steps[test] = Step::Test(libc::BPF_JGE, *pivot, right_at, Goal::Next);
            tree(right, steps);
        }
        _ => {
            for (number, answer) in table {
                let found = Goal::To(*answer);
                steps.push(Step::Test(libc::BPF_JEQ, *number, found, Goal::Next));
            }
            steps.push(Step::Jump(Goal::Allow));
        }
    }
}

/// Adds what answers do at the end and turns goals into distances; `None` when one is too far.
fn assemble(mut steps: Vec<Step>) -> Option<Vec<Instruction>> {
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let missing = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let mut ends: Vec<(Goal, usize)> = Vec::new();
    for (goal, value) in [
        (Goal::Allow, libc::SECCOMP_RET_ALLOW),
        (Goal::To(Answer::Refuse), refused),
        (Goal::To(Answer::Missing), missing),
    ] {
        ends.push((goal, steps.len()));
        steps.push(Step::Return(value));
    }
    let flags: std::collections::BTreeSet<u32> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Test(_, _, Goal::To(Answer::RefuseFlag(bits)), _) => Some(*bits),
            _ => None,
        })
        .collect();
    for bits in flags {
        ends.push((Goal::To(Answer::RefuseFlag(bits)), steps.len()));
        steps.push(Step::Load(ARGUMENT));
        let refuse = Step::Test(libc::BPF_JSET, bits, Goal::Next, Goal::At(steps.len() + 2));
        steps.push(refuse);
        steps.push(Step::Return(refused));
        steps.push(Step::Return(libc::SECCOMP_RET_ALLOW));
    }
    let distance = |from: usize, goal: Goal| -> Option<usize> {
        let to = match goal {
            Goal::Next => from + 1,
            Goal::At(place) => place,
            Goal::Allow | Goal::To(_) => ends.iter().find(|(end, _)| *end == goal)?.1,
        };
        to.checked_sub(from + 1)
    };
    let instructions = steps.iter().enumerate().map(|(at, step)| {
        Some(match step {
            Step::Load(from) => {
                instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, *from)
            }
            Step::Return(value) => instruction(libc::BPF_RET | libc::BPF_K, 0, 0, *value),
            Step::Jump(goal) => {
                let distance = u32::try_from(distance(at, *goal)?).ok()?;
                instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, distance)
            }
            Step::Test(test, k, yes, no) => {
                let near = |goal| u8::try_from(distance(at, goal)?).ok();
                let code = libc::BPF_JMP | *test | libc::BPF_K;
                instruction(code, near(*yes)?, near(*no)?, *k)
            }
        })
    });
    instructions.collect()
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> Instruction {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "operation codes are 16 bits, whatever the constants' type"
    )]
    let code = code as u16;
    Instruction { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does.
    fn ask(program: &[Instruction], architecture: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut held) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            let code = u32::from(i.code);
            let jump = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
            match code & 7 {
                libc::BPF_LD => {
                    held = match i.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        _ => argument,
                    }
                }
                libc::BPF_RET => return i.k,
                _ => {
                    at += match code & 0xf0 {
                        libc::BPF_JEQ => jump(held == i.k),
                        libc::BPF_JGE => jump(held >= i.k),
                        libc::BPF_JSET => jump(held & i.k != 0),
                        _ => usize::try_from(i.k).unwrap(),
                    }
                }
            }
        }
    }

    #[test]
    fn every_call_gets_its_answer_and_all_others_are_allowed() {
        const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
        const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;
        for n in 0..60 {
            let mut answers: BTreeMap<i64, Answer> =
                (0..n).map(|i| (i * 7 + 3, Answer::Refuse)).collect();
            answers.insert(56, Answer::RefuseFlag(0x10));
            answers.insert(435, Answer::Missing);
            let program = filter(&answers).unwrap();
            let here = architecture().unwrap();
            for number in 0..500 {
                let expected = match answers.get(&i64::from(number)) {
                    Some(Answer::Refuse) => EPERM,
                    Some(Answer::Missing) => ENOSYS,
                    Some(Answer::RefuseFlag(_)) | None => libc::SECCOMP_RET_ALLOW,
                };
                assert_eq!(ask(&program, here, number, 0), expected, "{n} {number}");
            }
            assert_eq!(ask(&program, here, 56, 0x11), EPERM);
            assert_eq!(ask(&program, here, 56, 0x01), libc::SECCOMP_RET_ALLOW);
            assert_eq!(ask(&program, here ^ 1, 1000, 0), ENOSYS);
            if cfg!(target_arch = "x86_64") {
                assert_eq!(ask(&program, here, X32 + 1, 0), ENOSYS);
            }
        }
    }
}
