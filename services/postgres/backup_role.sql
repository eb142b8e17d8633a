DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'backup') THEN CREATE ROLE backup LOGIN; END IF; END $$;

ALTER ROLE backup SET default_transaction_read_only = on;

GRANT pg_read_all_data, pg_read_all_settings, pg_read_all_stats TO backup;

GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO backup;

GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal(), pg_ls_archive_statusdir() TO backup;

DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'undo') THEN CREATE ROLE undo LOGIN; END IF; END $$;

