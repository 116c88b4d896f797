"""One or more defects for each promise, and the test that has to see each. See `tests.defects`."""

from typing import Final, NamedTuple


class Defect(NamedTuple):
    """`old` stands in `file` exactly once; with `new` in its place, `test` has to fail."""

    promise: int
    says: str
    file: str
    old: str
    new: str
    test: str


_ACTORS: Final = "palyra_actors/actors/"
_DOMAIN: Final = "palyra_actors/domain/"
_STORAGE: Final = "palyra_actors/storage/"

DEFECTS: Final = (
    Defect(
        1, "ok leaves before the disk has the COMMIT",
        _STORAGE + "connection.py", '"full": 2, "extra"', '"full": 1, "extra"',
        "tests/faults/test_engine_power.py"
        "::test_no_power_cut_takes_an_event_that_the_engine_acknowledged",
    ),
    Defect(
        2, "a COMMIT that failed half way is said to have stored nothing",
        _ACTORS + "writer.py",
        'unknown(f"the commit failed half way: {error}")',
        'StorageUnavailable("the commit failed", detail={"outcome": "none"})',
        "tests/faults/test_group_failures.py"
        "::test_a_commit_that_fails_half_way_is_unknown_and_the_same_ids_give_one_event_each",
    ),
    Defect(
        2, "what is refused as late stays queued and is written",
        _ACTORS + "writer.py",
        "self._eject([], late)", "[unit.request.fail(refusal) for unit in late]",
        "tests/system/test_budget.py"
        "::test_what_waited_too_long_behind_a_stall_is_refused_before_the_stall_ends",
    ),
    Defect(
        3, "other content under a known id is taken for a retry",
        _ACTORS + "retry.py", "else same_content(draft.payload, stored.payload)", "else True",
        "tests/system/test_contract_retries.py::test_the_same_id_with_other_content_is_id_reused",
    ),
    Defect(
        4, "the journal's head is not moved with its events",
        _STORAGE + "journal.py", '        ("move_head", batch.heads),\n', "",
        "tests/system/test_contract_append.py::test_seq_and_the_chain_go_on_after_a_restart",
    ),
    Defect(
        5, "one bad request fails the whole group",
        _ACTORS + "writer.py", "return self._without_clashes(group, clash)", "raise clash",
        "tests/faults/test_group_failures.py"
        "::test_each_bad_request_of_a_group_fails_alone_and_its_neighbours_are_stored",
    ),
    Defect(
        6, "the end of a run is left out of its row",
        _STORAGE + "journal.py", '        ("run.update", batch.run_ends),\n', "",
        "tests/system/test_rebuild.py"
        "::test_after_a_kill_at_any_moment_the_projections_are_what_the_journal_makes",
    ),
    Defect(
        7, "what waited beyond its budget is not refused",
        _ACTORS + "work.py", "            budget_ms > 0\n", "            budget_ms < 0\n",
        "tests/system/test_budget.py"
        "::test_what_waited_too_long_behind_a_stall_is_refused_before_the_stall_ends",
    ),
    Defect(
        8, "the answer to a command is lost",
        _ACTORS + "answers.py", 'request.ok({**results, "timing": timing})', "pass",
        "tests/system/test_counters.py"
        "::test_every_request_is_counted_once_whoever_asked_and_whoever_left",
    ),
    Defect(
        9, "a mailbox takes any number of messages",
        "palyra_actors/runtime/mailbox.py",
        "if len(self._envelopes) >= self.messages_max:", "if self.messages_max < 0:",
        "tests/runtime/test_mailbox.py"
        "::test_one_message_too_many_is_refused_and_the_others_stay",
    ),
    Defect(
        10, "a stream gets more credit than its reader gave",
        _ACTORS + "feed.py", "subscription.credit += credit", "subscription.credit += 2 * credit",
        "tests/system/test_contract_subscribe.py"
        "::test_at_zero_credit_a_stream_pauses_exactly_and_goes_on_from_where_it_stopped",
    ),
    Defect(
        11, "ids follow the clock when it steps back",
        "palyra_actors/ids.py", "if now > floor:", "if now != floor:",
        "tests/test_ids.py::test_ids_go_on_from_the_latest_time_when_the_clock_steps_back",
    ),
    Defect(
        12, "a start does not take its instant off the schedule",
        _DOMAIN + "cron.py",
        "return _advanced(\n        job, said, active=run,",
        "return job._replace(\n        active=run,",
        "tests/domain/test_cron.py"
        "::test_every_policy_does_in_every_situation_what_the_rules_say",
    ),
    Defect(
        13, "a file that could not be opened anew is not tried again",
        _ACTORS + "writer.py",
        "self._loop.call_later(REOPEN_S, lambda: self._reopen(group))", "pass",
        "tests/faults/test_group_failures.py"
        "::test_a_file_that_cannot_be_opened_anew_is_tried_until_it_can",
    ),
    Defect(
        14, "a listener that fails takes the writer along",
        _ACTORS + "writer.py", 'log.exception("a group could not be published")', "raise",
        "tests/faults/test_isolation.py"
        "::test_a_listener_that_fails_costs_no_reply_and_no_commit",
    ),
    Defect(
        15, "a schema of a newer engine is opened",
        _STORAGE + "files.py",
        "if version > latest_version():", "if version > latest_version() + 1_000_000:",
        "tests/storage/test_connection.py::test_a_newer_schema_is_refused_untouched",
    ),
    Defect(
        16, "the lock lets others share it",
        _STORAGE + "lock.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "tests/storage/test_lock.py"
        "::test_a_second_engine_in_another_process_is_refused_by_any_name_and_told_who_has_it",
    ),
    Defect(
        17, "a copy is put in place unproven",
        _STORAGE + "backup.py",
        "if not found.sound or (exact and found.head != head):",
        "if exact and found.head != head:",
        "tests/storage/test_backup.py"
        "::test_a_bit_that_flips_in_a_copy_keeps_it_from_being_restored",
    ),
    Defect(
        18, "SIGTERM ends the process at once",
        "palyra_actors/cli/serve.py",
        "for each in (signal.SIGTERM, signal.SIGINT):", "for each in (signal.SIGINT,):",
        "tests/system/test_stop.py"
        "::test_a_signal_under_load_leaves_no_request_in_doubt_and_ends_with_0",
    ),
    Defect(
        19, "the traceparent is left out of the hash that is checked",
        _DOMAIN + "chain.py", "(*event[:14], digest)", "(*event[:13], None, digest)",
        "tests/domain/test_chain.py::test_every_field_is_part_of_it",
    ),
    Defect(
        20, "the anchor is not written",
        _ACTORS + "anchors.py", "            self._write(head)\n", "            pass\n",
        "tests/system/test_anchor.py"
        "::test_a_clean_end_leaves_the_head_in_the_anchor_for_the_owner_only",
    ),
    Defect(
        21, "the lines of an export are not chained",
        _DOMAIN + "export.py", "        self.head_hash = digest\n", "",
        "tests/system/test_approvals.py::test_an_independent_checker_agrees_and_finds_each_change",
    ),
    Defect(
        22, "erased bytes stay on free pages",
        _STORAGE + "connection.py", '"secure_delete", 1, 1', '"secure_delete", 0, 0',
        "tests/system/test_sessions.py"
        "::test_what_is_erased_is_in_no_file_any_more_and_the_chain_verifies",
    ),
    Defect(
        23, "a door without keys is opened beyond loopback",
        _ACTORS + "endpoint.py", 'if host is None or host == "localhost":', "if host != endpoint:",
        "tests/system/test_contract_principals.py"
        "::test_a_door_without_curve_is_refused_beyond_loopback",
    ),
    Defect(
        24, "a subscription does not ask whose event it is",
        _ACTORS + "feed.py",
        "return self.request.admin or principal == self.request.principal",
        "return bool(principal)",
        "tests/system/test_contract_principals.py"
        "::test_a_principal_hears_of_its_own_events_only_from_file_and_live",
    ),
    Defect(
        25, "a frame over the limit is read",
        "palyra_actors/wire/codec.py",
        "request_id = _request_id(envelope)\n    if len(frame) > FRAME_BYTES_MAX:",
        "request_id = _request_id(envelope)\n    if not frame:",
        "tests/system/test_contract_frames.py"
        "::test_a_frame_of_one_byte_more_is_too_large_and_says_both_sizes",
    ),
    Defect(
        25, "nobody waits while all together bring in too much",
        "palyra_actors/actors/guard.py",
        "much = sum(one.held_bytes for one in connections) > ALL_HELD_BYTES_FREE",
        "much = sum(one.held_bytes for one in connections) < 0",
        "tests/actors/test_guard.py::test_while_too_much_is_on_its_way_all_but_a_few_wait",
    ),
    Defect(
        26, "a patch goes on behind a test that failed",
        _DOMAIN + "document.py",
        "if not alike(found, value):", "if found is None:",
        "tests/domain/test_document.py::test_what_does_not_apply_is_named_by_its_place",
    ),
    Defect(
        27, "a statement may write the schema's own tables",
        _STORAGE + "connection.py",
        "SQLITE_DBCONFIG_DEFENSIVE, 1)", "SQLITE_DBCONFIG_DEFENSIVE, 0)",
        "tests/storage/test_connection.py::test_a_schema_cannot_reach_outside_of_its_file",
    ),
    Defect(
        28, "the first look does not know one shape of key",
        _DOMAIN + "redact.py", '    (rb"A[KS]IA[0-9A-Z]{12}", SECRET, 0),\n', "",
        "tests/domain/test_redact.py"
        "::test_the_first_look_sees_a_shape_behind_a_header_of_any_length",
    ),
    Defect(
        29, "a request whose connection is gone is not counted",
        _ACTORS + "work.py", "self.tally.closed += 1", "pass",
        "tests/system/test_counters.py"
        "::test_a_stream_whose_connection_is_gone_is_closed_and_counted",
    ),
    Defect(
        30, "another version of the protocol is served",
        "palyra_actors/wire/codec.py",
        "type(version) is not int or version != PROTOCOL_VERSION", "type(version) is not int",
        "tests/system/test_contract_frames.py::test_any_version_but_1_is_unsupported_version",
    ),
)  # fmt: skip
