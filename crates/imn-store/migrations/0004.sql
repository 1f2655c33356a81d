-- The few tasks that are not terminal are found by task_live; an index more is a page more to write for each job.

DROP INDEX task_unqueued;
