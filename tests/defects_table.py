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
        1, "a group is answered before its COMMIT has returned",
        _ACTORS + "writer.py",
        "        self._committer.commit(self._storage)\n        self._prepare(group)\n",
        "        self._prepare(group)\n"
        "        self.settling.settle(group, self._loop.clock.monotonic())\n"
        "        self._committer.commit(self._storage)\n",
        "tests/system/test_kill.py::test_a_slow_disk_changes_nothing_about_it",
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
        3, "the file takes an event id twice",
        _STORAGE + "sql/0001_journal.sql",
        "CREATE UNIQUE INDEX events_by_id", "CREATE INDEX events_by_id",
        "tests/system/test_contract_retries.py"
        "::test_the_same_event_again_gets_the_first_answer_again",
    ),
    Defect(
        4, "the journal's head is not moved with its events",
        _STORAGE + "journal.py", '        ("move_head", batch.heads),\n', "",
        "tests/system/test_contract_append.py::test_seq_and_the_chain_go_on_after_a_restart",
    ),
    Defect(
        4, "a number that was taken back is not given again",
        _ACTORS + "entity.py",
        "            self._next = portion.next_before\n        inbox", "        inbox",
        "tests/faults/test_group_failures.py"
        "::test_requests_numbered_ahead_of_a_failure_are_renumbered_and_stored_in_order",
    ),
    Defect(
        4, "a page is in the order of the clock",
        _STORAGE + "sql/queries.sql",
        "       s.principal\nFROM events e JOIN streams s USING (stream) JOIN principals p "
        "ON p.principal = e.principal\nWHERE e.seq > ? AND e.seq <= ?\nORDER BY e.seq\n",
        "       s.principal\nFROM events e JOIN streams s USING (stream) JOIN principals p "
        "ON p.principal = e.principal\nWHERE e.seq > ? AND e.seq <= ?\nORDER BY e.recorded_ms\n",
        "tests/faults/test_clock.py"
        "::test_events_are_read_in_the_order_of_their_numbers_when_the_clock_is_set_back",
    ),
    Defect(
        5, "one bad request fails the whole group",
        _ACTORS + "writer.py", "return self._without_clashes(group, clash)", "raise clash",
        "tests/faults/test_group_failures.py"
        "::test_each_bad_request_of_a_group_fails_alone_and_its_neighbours_are_stored",
    ),
    Defect(
        5, "events are durable before what follows from them",
        _STORAGE + "journal.py",
        "                    executemany(sql(statement), left)\n",
        "                    executemany(sql(statement), left)\n"
        '                if statement == "insert_event":\n'
        '                    execute("COMMIT")\n'
        '                    execute("BEGIN IMMEDIATE")\n',
        "tests/faults/test_group_failures.py"
        "::test_a_commit_that_fails_half_way_is_unknown_and_the_same_ids_give_one_event_each",
    ),
    Defect(
        6, "the end of a run is left out of its row",
        _STORAGE + "journal.py", '        ("run.update", batch.run_ends),\n', "",
        "tests/system/test_rebuild.py"
        "::test_after_a_kill_at_any_moment_the_projections_are_what_the_journal_makes",
    ),
    Defect(
        6, "the state that a canvas was compacted to is not found again",
        _DOMAIN + "canvas.py",
        '("canvas.insert_snapshot", (stream, canvas.version, fact.stream_seq, fact.seq, 0)),',
        "",
        "tests/system/test_canvas_history.py"
        "::test_a_compaction_keeps_the_present_version_and_the_chain",
    ),
    Defect(
        7, "what waited beyond its budget is not refused",
        _ACTORS + "work.py", "            budget_ms > 0\n", "            budget_ms < 0\n",
        "tests/system/test_budget.py"
        "::test_what_waited_too_long_behind_a_stall_is_refused_before_the_stall_ends",
    ),
    Defect(
        7, "the door lets in twice what can be durable in time",
        _ACTORS + "admission.py",
        "room = (arrived - self._opens_at) * self._load_per_s",
        "room = 2 * (arrived - self._opens_at) * self._load_per_s",
        "tests/actors/test_admission.py::test_as_many_come_in_as_can_be_durable_in_time",
    ),
    Defect(
        7, "on a slow disk nobody is let in",
        _ACTORS + "steering.py",
        "return self.rest_s(now) + (0.0 if self.slow else self.commit_s)",
        "return self.rest_s(now) + self.commit_s",
        "tests/actors/test_admission.py"
        "::test_on_a_slow_disk_one_group_is_let_in_and_the_next_gathers_when_it_is_about_to_end",
    ),
    Defect(
        8, "what a round has left is forgotten for what comes in the next",
        _ACTORS + "desk.py", "if self._rest[0]:  # it came before these", "if False:",
        "tests/actors/test_desk.py"
        "::test_what_a_lone_client_sends_while_the_rest_of_a_round_waits_is_answered_in_order",
    ),
    Defect(
        8, "the answer to a command is lost",
        _ACTORS + "answers.py", 'request.ok({**results, "timing": timing})', "pass",
        "tests/system/test_counters.py"
        "::test_every_request_is_counted_once_whoever_asked_and_whoever_left",
    ),
    Defect(
        8, "who was answered is answered again",
        _ACTORS + "work.py",
        '        """Answer with an error."""\n        if not self.answered:\n',
        '        """Answer with an error."""\n        if self.tally:\n',
        "tests/faults/test_isolation.py"
        "::test_at_rest_the_counters_add_up_after_every_kind_of_end",
    ),
    Defect(
        9, "a mailbox takes any number of messages",
        "palyra_actors/runtime/mailbox.py",
        "if len(self._envelopes) >= self.messages_max:", "if self.messages_max < 0:",
        "tests/runtime/test_mailbox.py"
        "::test_one_message_too_many_is_refused_and_the_others_stay",
    ),
    Defect(
        9, "any number of sessions stays in memory",
        _ACTORS + "directory.py",
        "if len(self._awake) >= self.resident_max and not self._make_room():",
        "if self.resident_max < 0:",
        "tests/system/test_scale.py::test_sessions_that_left_memory_go_on_where_they_were",
    ),
    Defect(
        9, "a peer is owed any number of bytes",
        _ACTORS + "door.py",
        "if peer.backlog_bytes > self._peer_reply_bytes_max:",
        "if self._peer_reply_bytes_max < 0:",
        "tests/system/test_contract_subscribe.py"
        "::test_a_peer_that_takes_no_replies_is_cut_and_others_live_on",
    ),
    Defect(
        9, "a WAL over its cap is not told of",
        _STORAGE + "upkeep.py",
        "over_limit=used > self._held_bytes,", "over_limit=False,",
        "tests/storage/test_upkeep.py"
        "::test_a_wal_above_its_limit_is_reported_until_it_starts_anew",
    ),
    Defect(
        9, "any number of connections is served",
        _ACTORS + "door.py",
        "if len(self._peers) < self._peers_max or self._forget_an_idle_one():",
        "if self._peers_max:",
        "tests/system/test_contract_subscribe.py"
        "::test_where_all_connections_are_busy_one_more_is_refused_and_none_is_cut",
    ),
    Defect(
        9, "a WAL over its cap is written on",
        _ACTORS + "writer.py", "if self.over_limit:", "if self.over_limit is None:",
        "tests/storage/test_upkeep.py"
        "::test_where_the_wal_is_over_its_cap_writes_are_refused_until_its_reader_lets_go",
    ),
    Defect(
        9, "a page holds its snapshot as long as it takes",
        _STORAGE + "journal.py",
        "if looked_at & 0xFF == 0xFF and self._monotonic() > ends:",
        "if looked_at & 0xFF == 0xFF and self._monotonic() < 0:",
        "tests/storage/test_upkeep.py"
        "::test_a_page_ends_with_what_it_has_once_its_snapshot_is_old",
    ),
    Defect(
        9, "a WAL that was over its cap once is so for good",
        _STORAGE + "upkeep.py", "                used = 0\n", "                pass\n",
        "tests/storage/test_upkeep.py"
        "::test_a_wal_above_its_limit_is_reported_until_it_starts_anew",
    ),
    Defect(
        9, "a WAL is held back at its cap, and what is under way goes beyond",
        _STORAGE + "upkeep.py", "wal_bytes_max - wal_bytes_max // UNDER_WAY", "wal_bytes_max",
        "tests/storage/test_upkeep.py"
        "::test_a_wal_is_held_back_before_its_cap_and_crowded_from_half_of_it_on",
    ),
    Defect(
        9, "a checkpoint is put off though the WAL is half full",
        _ACTORS + "checkpointer.py", " and not self._crowded():", ":",
        "tests/actors/test_slices.py::test_a_wal_that_is_half_full_is_not_put_off",
    ),
    Defect(
        9, "a WAL over its cap is not looked at again",
        _ACTORS + "checkpointer.py", "force=bool(urged) or self.over_limit", "force=bool(urged)",
        "tests/actors/test_slices.py"
        "::test_a_wal_over_its_cap_is_looked_at_again_though_nothing_becomes_due",
    ),
    Defect(
        10, "a stream gets more credit than its reader gave",
        _ACTORS + "feed.py", "subscription.credit += credit", "subscription.credit += 2 * credit",
        "tests/system/test_contract_subscribe.py"
        "::test_at_zero_credit_a_stream_pauses_exactly_and_goes_on_from_where_it_stopped",
    ),
    Defect(
        10, "a reply that its peer has no room for is dropped",
        _ACTORS + "door.py",
        "        peer.backlog.append(frame)\n        peer.backlog_bytes += len(frame)\n", "",
        "tests/system/test_contract_subscribe.py"
        "::test_a_reader_that_keeps_reading_gets_a_journal_larger_than_any_buffer",
    ),
    Defect(
        10, "a peer that does not read is never cut",
        _ACTORS + "door.py",
        "elif now - peer.moved_at > STUCK_S_MAX:", "elif now < peer.moved_at:",
        "tests/system/test_contract_subscribe.py"
        "::test_a_subscriber_that_never_reads_holds_up_nobody_and_is_cut_in_the_end",
    ),
    Defect(
        11, "ids follow the clock when it steps back",
        "palyra_actors/ids.py", "if now > floor:", "if now != floor:",
        "tests/test_ids.py::test_ids_go_on_from_the_latest_time_when_the_clock_steps_back",
    ),
    Defect(
        11, "time is measured by a clock that is set",
        "palyra_actors/clock.py", "return time.monotonic()", "return time.time()",
        "tests/faults/test_clock.py"
        "::test_the_engines_own_clock_measures_time_by_what_nobody_can_set",
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
        12, "a worker hears of a run before it is durable",
        _ACTORS + "writer.py",
        "        self._under_way(group)\n        if alone:\n",
        "        self._under_way(group)\n        self.settling._tell_entities(group)\n"
        "        if alone:\n",
        "tests/faults/test_group_failures.py"
        "::test_nobody_hears_of_a_run_before_it_is_durable",
    ),
    Defect(
        12, "ticks that were missed are not counted",
        _DOMAIN + "cron_commands.py", "missed=count - 1,", "missed=0,",
        "tests/system/test_cron.py"
        "::test_ticks_of_the_time_without_an_engine_follow_their_misfire_policy",
    ),
    Defect(
        13, "a file that could not be opened anew is not tried again",
        _ACTORS + "writer.py",
        "self._loop.call_later(REOPEN_S, lambda: self._reopen(group))", "pass",
        "tests/faults/test_group_failures.py"
        "::test_a_file_that_cannot_be_opened_anew_is_tried_until_it_can",
    ),
    Defect(
        13, "health says nothing of a disk that takes no write",
        _ACTORS + "rejection.py",
        "        self.reason = reason\n", "        self.reason = None\n",
        "tests/faults/test_group_failures.py"
        "::test_health_turns_ready_by_itself_once_the_disk_takes_writes_again",
    ),
    Defect(
        13, "the connection is gone on with after a COMMIT that failed",
        _STORAGE + "journal.py",
        "        drop(self._connection)\n        self._has_idle = self._has_gone = None\n",
        "        return self.head()\n",
        "tests/faults/test_group_failures.py"
        "::test_a_commit_that_fails_half_way_is_unknown_and_the_same_ids_give_one_event_each",
    ),
    Defect(
        13, "the head is not compared after a COMMIT that failed",
        _ACTORS + "writer.py", "if head == group.after:", "if head is group:",
        "tests/faults/test_group_failures.py"
        "::test_a_commit_that_fails_half_way_is_unknown_and_the_same_ids_give_one_event_each",
    ),
    Defect(
        14, "a listener that fails takes the writer along",
        _ACTORS + "settling.py", 'log.exception("a group could not be published")', "raise",
        "tests/faults/test_isolation.py"
        "::test_a_listener_that_fails_costs_no_reply_and_no_commit",
    ),
    Defect(
        14, "what is no Exception passes through an actor",
        "palyra_actors/runtime/actor.py",
        "except BaseException as error:  # noqa: BLE001 - an actor's failure ends",
        "except Exception as error:  # noqa: BLE001 - an actor's failure ends",
        "tests/runtime/test_actor.py::test_nothing_that_an_actor_raises_stops_another",
    ),
    Defect(
        14, "a session that failed comes back one number further",
        _ACTORS + "entity.py",
        "        self._state = ASLEEP\n        house = self._house\n",
        "        self._next += 1\n        house = self._house\n",
        "tests/faults/test_isolation.py"
        "::test_a_session_that_fails_takes_its_own_request_along_and_comes_back_equal",
    ),
    Defect(
        14, "a writer that failed says that nothing was stored",
        _ACTORS + "writer.py",
        "            self._recover(group, error)\n        elif units:",
        "            self._eject(group.units, dict.fromkeys(group.units, stopping()))\n"
        "        elif units:",
        "tests/faults/test_isolation.py"
        "::test_a_writer_that_fails_leaves_its_group_unknown_and_is_back_at_once",
    ),
    Defect(
        15, "a schema of a newer engine is opened",
        _STORAGE + "files.py",
        "if version > latest_version():", "if version > latest_version() + 1_000_000:",
        "tests/storage/test_connection.py::test_a_newer_schema_is_refused_untouched",
    ),
    Defect(
        15, "a file of another application is opened",
        _STORAGE + "files.py",
        "if header.application_id != APPLICATION_ID:", "if header.application_id < 0:",
        "tests/storage/test_connection.py"
        "::test_a_database_of_another_application_is_refused_untouched",
    ),
    Defect(
        15, "nobody looks at the pages",
        _STORAGE + "opening.py", "refuse_damage(file, reader.faults())", "pass",
        "tests/storage/test_damage.py::test_damage_to_the_file_is_refused_or_found_or_harmless",
    ),
    Defect(
        15, "a file that is refused loses its WAL",
        _STORAGE + "connection.py",
        "_configure(connection, apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(has_wal))", "pass",
        "tests/storage/test_connection.py"
        "::test_a_newer_schema_that_only_the_wal_knows_of_is_refused_untouched",
    ),
    Defect(
        16, "the lock lets others share it",
        _STORAGE + "lock.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "tests/storage/test_lock.py"
        "::test_a_second_engine_in_another_process_is_refused_by_any_name_and_told_who_has_it",
    ),
    Defect(
        16, "a file that was replaced is not noticed",
        _STORAGE + "lock.py",
        "return (named.st_dev, named.st_ino) == self._identity and links >= 1",
        "return bool(named) and bool(links)",
        "tests/storage/test_lock.py::test_a_lock_says_whether_the_path_still_names_its_file",
    ),
    Defect(
        16, "a file that was replaced is written on",
        "palyra_actors/engine.py", "            self.writer.refuse(self.replaced)\n", "",
        "tests/faults/test_isolation.py"
        "::test_a_file_that_is_taken_away_stops_all_acks_and_health_says_why",
    ),
    Defect(
        17, "a copy is put in place unproven",
        _STORAGE + "backup.py",
        "if not found.sound:", "if not found.sound and head is None:",
        "tests/storage/test_backup.py"
        "::test_a_bit_that_flips_in_a_copy_keeps_it_from_being_restored",
    ),
    Defect(
        17, "a copy is of what was moved into the file alone",
        _STORAGE + "livepages.py",
        "if not count():", "if count() >= 0:",
        "tests/storage/test_backup.py"
        "::test_a_copy_made_under_load_is_an_exact_prefix_with_all_that_was_acknowledged_before",
    ),
    Defect(
        18, "SIGTERM ends the process at once",
        "palyra_actors/cli/serve.py",
        "for each in (signal.SIGTERM, signal.SIGINT):", "for each in (signal.SIGINT,):",
        "tests/system/test_stop.py"
        "::test_a_signal_under_load_leaves_no_request_in_doubt_and_ends_with_0",
    ),
    Defect(
        18, "an engine that ends waits for nobody who is under way",
        "palyra_actors/engine.py",
        "        quiet.wait(max(0.0, deadline - time.monotonic()))\n", "",
        "tests/system/test_stop.py"
        "::test_an_engine_that_ends_answers_what_is_under_way_before_it_shuts",
    ),
    Defect(
        19, "the traceparent is left out of the hash that is checked",
        _DOMAIN + "chain.py", "(*event[:14], digest)", "(*event[:13], None, digest)",
        "tests/system/test_contract_verify.py"
        "::test_any_change_of_a_row_is_found_with_the_first_bad_seq",
    ),
    Defect(
        19, "hashes are not compared",
        _STORAGE + "journal.py",
        "or event.hash != expected_hash(event, previous)", "or event.hash == previous",
        "tests/system/test_contract_verify.py"
        "::test_any_change_of_a_row_is_found_with_the_first_bad_seq",
    ),
    Defect(
        20, "the anchor is not written",
        _ACTORS + "anchors.py", "            self._write(head)\n", "            pass\n",
        "tests/system/test_anchor.py"
        "::test_a_clean_end_leaves_the_head_in_the_anchor_for_the_owner_only",
    ),
    Defect(
        20, "a journal that is shorter than its anchor is opened",
        _DOMAIN + "chain.py",
        "        return head[0] + 1\n", "        return None\n",
        "tests/system/test_anchor.py"
        "::test_an_older_copy_in_the_place_of_the_file_is_refused_and_nothing_is_touched",
    ),
    Defect(
        20, "the anchor is not hurried, however many events come",
        _ACTORS + "anchors.py", "            self._due.set()\n", "            pass\n",
        "tests/system/test_anchor.py"
        "::test_a_thousand_events_are_anchored_without_waiting_for_the_second",
    ),
    Defect(
        21, "the lines of an export are not chained",
        _DOMAIN + "export.py", "        self.head_hash = digest\n", "",
        "tests/system/test_approvals.py::test_an_independent_checker_agrees_and_finds_each_change",
    ),
    Defect(
        21, "an export says when it was made",
        _DOMAIN + "export.py",
        "self._filters = dict(filters)",
        'self._filters = {**filters, "made_ms": __import__("time").perf_counter()}',
        "tests/system/test_approvals.py"
        "::test_an_export_is_the_same_bytes_twice_and_holds_what_was_asked_for",
    ),
    Defect(
        22, "erased bytes stay on free pages",
        _STORAGE + "connection.py", '"secure_delete", 1, 1', '"secure_delete", 0, 0',
        "tests/system/test_sessions.py"
        "::test_what_is_erased_is_in_no_file_any_more_and_the_chain_verifies",
    ),
    Defect(
        22, "what was erased stays in the WAL",
        "palyra_actors/actors/clerks/slices.py", "    storage.empty_wal(CUT_FRAMES_MAX)\n", "",
        "tests/system/test_sessions.py"
        "::test_what_is_erased_is_in_no_file_any_more_and_the_chain_verifies",
    ),
    Defect(
        22, "an erased payload leaves no digest",
        _STORAGE + "journal.py",
        "                        (sha256(payload).digest(), seq)\n",
        "                        (bytes(32), seq)\n",
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
        23, "any key opens the door",
        _ACTORS + "authenticator.py",
        "return key in self._allowed.principals and self._fresh()", "return self._fresh()",
        "tests/system/test_locked_door.py::test_a_stranger_gets_no_handshake",
    ),
    Defect(
        23, "frames are read while nobody looks at the keys",
        _ACTORS + "authenticator.py",
        "return self._handler is not None and self._canaries is None and self._fresh()",
        "return self._canaries is None",
        "tests/system/test_locked_door.py"
        "::test_while_the_authenticator_is_down_nobody_comes_in_and_no_frame_is_read",
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
        24, "another's session is answered otherwise than a missing one",
        "palyra_actors/actors/clerks/session.py",
        '        raise NotFound("there is no such session", field=field)\n    session = found',
        '        raise NotFound("there is none" if row is None else "not yours", field=field)\n'
        "    session = found",
        "tests/system/test_matrix.py"
        "::test_each_role_may_what_it_may_with_each_ones_things",
    ),
    Defect(
        24, "whoever says so acts for another",
        _ACTORS + "desk.py", "        if not request.admin:\n", "        if not principal:\n",
        "tests/system/test_locked_door.py::test_only_an_admin_acts_for_another",
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
        25, "bytes that are no MessagePack are a fault of ours",
        "palyra_actors/wire/codec.py",
        "    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):\n        pass\n",
        "    except msgspec.ValidationError:\n        pass\n",
        "tests/wire/test_codec.py"
        "::test_any_bytes_are_a_request_or_a_refusal_of_the_contract",
    ),
    Defect(
        25, "a large frame is decoded with the interpreter's lock",
        "palyra_actors/wire/codec.py", "if len(frame) >= WALKED_BYTES:", "if not frame:",
        "tests/wire/test_codec.py::test_of_a_large_frame_only_a_little_is_decoded",
    ),
    Defect(
        26, "a patch goes on behind a test that failed",
        _DOMAIN + "document.py",
        "if not alike(found, value):", "if found is None:",
        "tests/domain/test_document.py::test_what_does_not_apply_is_named_by_its_place",
    ),
    Defect(
        26, "a patch may have any number of operations",
        _DOMAIN + "document.py",
        "if not 1 <= len(operations) <= CANVAS_PATCH_OPERATIONS_MAX:", "if not operations:",
        "tests/system/test_canvas.py::test_what_is_no_patch_is_refused",
    ),
    Defect(
        26, "a patch changes the state that it is applied to",
        _DOMAIN + "document.py", "        copy = container.copy()\n", "        copy = container\n",
        "tests/domain/test_document.py::test_what_does_not_apply_is_named_by_its_place",
    ),
    Defect(
        26, "a patch may take any work",
        _DOMAIN + "document.py",
        "if self.done > CANVAS_WORK_MAX and self._limited:",
        "if self.done < 0 and self._limited:",
        "tests/domain/test_document.py"
        "::test_a_patch_that_takes_too_long_is_refused_before_it_did",
    ),
    Defect(
        27, "a statement may write the schema's own tables",
        _STORAGE + "connection.py",
        "SQLITE_DBCONFIG_DEFENSIVE, 1)", "SQLITE_DBCONFIG_DEFENSIVE, 0)",
        "tests/storage/test_connection.py::test_a_schema_cannot_reach_outside_of_its_file",
    ),
    Defect(
        27, "words to search for are not quoted",
        "palyra_actors/actors/clerks/session.py",
        """terms = " ".join(f'"{word}"*' for word in words)""", 'terms = " ".join(words)',
        "tests/system/test_no_injection.py"
        "::test_words_to_search_for_are_words_and_show_nothing_of_others",
    ),
    Defect(
        27, "a schema is trusted",
        _STORAGE + "connection.py",
        "SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)", "SQLITE_DBCONFIG_TRUSTED_SCHEMA, 1)",
        "tests/system/test_no_injection.py"
        "::test_every_connection_is_defensive_trusts_no_schema_and_loads_nothing",
    ),
    Defect(
        27, "a name may lead out of its folder",
        "palyra_actors/keys.py",
        'rf"[A-Za-z0-9_@-][A-Za-z0-9_.:@-]', 'rf"[A-Za-z0-9_@./-][A-Za-z0-9_.:@/-]',
        "tests/test_keys.py::test_a_name_is_one_harmless_path_component",
    ),
    Defect(
        28, "the first look does not know one shape of key",
        _DOMAIN + "redact.py", '    (rb"A[KS]IA[0-9A-Z]{12}", SECRET, 0),\n', "",
        "tests/domain/test_redact.py"
        "::test_the_first_look_sees_a_shape_behind_a_header_of_any_length",
    ),
    Defect(
        28, "secrets are stored",
        _DOMAIN + "payload.py",
        "if not flags & (SECRET | TOKEN_TEXT):", "if flags:",
        "tests/system/test_contract_append.py"
        "::test_secrets_are_gone_before_anything_is_stored_and_the_result_says_so",
    ),
    Defect(
        28, "secrets are logged",
        "palyra_actors/cli/logs.py", "event[key] = redact_text(text)", "event[key] = text",
        "tests/cli/test_logs.py::test_neither_a_secret_nor_a_local_variable_reaches_the_log",
    ),
    Defect(
        28, "a refusal quotes a secret",
        "palyra_actors/wire/codec.py",
        'err, _ = redact(error.to_wire(), kind="")', "err = error.to_wire()",
        "tests/system/test_no_secret_leaves.py::test_secrets_that_clients_say_come_out_nowhere",
    ),
    Defect(
        28, "others may read a new database",
        _STORAGE + "lock.py", "_FILE_MODE: Final = 0o600", "_FILE_MODE: Final = 0o644",
        "tests/storage/test_lock.py::test_folders_and_file_are_made_for_the_owner_only",
    ),
    Defect(
        29, "a request whose connection is gone is not counted",
        _ACTORS + "work.py", "self.tally.closed += 1", "pass",
        "tests/system/test_counters.py"
        "::test_a_stream_whose_connection_is_gone_is_closed_and_counted",
    ),
    Defect(
        29, "what is unknown is not counted",
        _ACTORS + "work.py", "self.tally.unknown += 1", "pass",
        "tests/faults/test_isolation.py"
        "::test_at_rest_the_counters_add_up_after_every_kind_of_end",
    ),
    Defect(
        30, "another version of the protocol is served",
        "palyra_actors/wire/codec.py",
        "type(version) is not int or version != PROTOCOL_VERSION", "type(version) is not int",
        "tests/system/test_contract_frames.py::test_any_version_but_1_is_unsupported_version",
    ),
    Defect(
        30, "a migration leaves no copy of what was",
        _STORAGE + "migrations.py", "if pending and version > 0:", "if pending and version < 0:",
        "tests/storage/test_migrations.py"
        "::test_a_migration_keeps_the_data_and_leaves_a_copy_of_what_was",
    ),
    Defect(
        30, "a migration that fails leaves what it did before",
        _STORAGE + "migrations.py",
        'connection.execute("ROLLBACK").fetchall()', 'connection.execute("COMMIT").fetchall()',
        "tests/storage/test_migrations.py"
        "::test_a_wrong_statement_undoes_its_whole_migration",
    ),
)  # fmt: skip
