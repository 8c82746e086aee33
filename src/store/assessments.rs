//! Rows <-> assessments and candidates.
//!
//! Owns the statements on `assessments`, its sections and items, and `candidates`. It must not know who sits what, nor
//! what a mode means.
//!
//! Invariants: a version is written once and never changed; it goes when it can neither be started nor has a session.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use crate::domain::assessments::{Assessment, Candidate, Factor, Item, Navigation, Order, Plan, Section};
use crate::store::schema::{integer, unreadable, unsigned};

/// Writes a version, which is the one to start from here on.
///
/// # Errors
/// SQLite's own.
pub(super) fn put(connection: &Connection, assessment: &Assessment) -> rusqlite::Result<()> {
    remove(connection, &assessment.id)?;
    let Assessment { id, version, title, time_limit_s, attempt_limit, navigation, grace_s, .. } = assessment;
    let sql =
        "INSERT INTO assessments (version, id, is_current, title, time_limit_s, attempt_limit, navigation, grace_s)
               VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, ?7)";
    let navigation = navigation.name();
    connection.prepare_cached(sql)?.execute(params![
        version,
        id,
        title,
        time_limit_s,
        attempt_limit,
        navigation,
        grace_s
    ])?;
    let sql = "INSERT INTO assessment_sections (version, number, id, name, time_limit_s, is_drawn, items_to_select,
                   ordering) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let mut insert = connection.prepare_cached(sql)?;
    for (number, section) in (0_u16..).zip(&assessment.sections) {
        let Section { id, name, time_limit_s, is_drawn, items_to_select, order } = section;
        insert.execute(params![version, number, id, name, time_limit_s, is_drawn, items_to_select, order.name()])?;
    }
    let sql = "INSERT INTO assessment_items (version, number, section, id, content, metadata)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut insert = connection.prepare_cached(sql)?;
    for (number, Item { id, section, content, metadata }) in (0_u16..).zip(&assessment.items) {
        insert.execute(params![version, number, section, id, content, metadata])?;
    }
    Ok(())
}

/// The assessment can be started no more.
///
/// # Errors
/// SQLite's own.
pub(super) fn remove(connection: &Connection, id: &Arc<str>) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE assessments SET is_current = 0 WHERE id = ?1 AND is_current = 1")?
        .execute([id])?;
    let sql = "SELECT version FROM assessments WHERE id = ?1";
    let versions: Vec<u32> =
        connection.prepare_cached(sql)?.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    versions.into_iter().try_for_each(|version| drop_unused(connection, version))
}

/// Forgets a version that can neither be started nor has a session.
///
/// # Errors
/// SQLite's own.
pub(super) fn drop_unused(connection: &Connection, version: u32) -> rusqlite::Result<()> {
    let sql = "DELETE FROM assessments WHERE version = ?1 AND is_current = 0
               AND NOT EXISTS (SELECT 1 FROM sessions WHERE version = ?1)";
    if connection.prepare_cached(sql)?.execute([version])? > 0 {
        connection.prepare_cached("DELETE FROM assessment_sections WHERE version = ?1")?.execute([version])?;
        connection.prepare_cached("DELETE FROM assessment_items WHERE version = ?1")?.execute([version])?;
    }
    Ok(())
}

/// Every version that can be started or that a session which is held has: which can be started, and by version.
pub(super) type Versions = (Vec<Arc<Assessment>>, HashMap<u32, Arc<Assessment>>);

/// The versions in question.
pub(super) const IN_USE: &str =
    "SELECT version, id, is_current, title, time_limit_s, attempt_limit, navigation, grace_s FROM assessments
     WHERE is_current = 1 OR version IN (SELECT version FROM sessions WHERE is_past = 0) ORDER BY version";

/// Reads [`Versions`].
///
/// # Errors
/// SQLite's own, and when a row has no meaning.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Versions> {
    let (mut current, mut versions) = (Vec::new(), HashMap::new());
    let mut statement = connection.prepare(IN_USE)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (version, is_current) = (row.get(0)?, row.get(2)?);
        let navigation: String = row.get(6)?;
        let known = Navigation::ALL.into_iter().find(|known| known.name() == navigation);
        let plan = Plan {
            id: row.get(1)?,
            title: row.get(3)?,
            time_limit_s: row.get(4)?,
            attempt_limit: row.get(5)?,
            navigation: known.ok_or_else(|| unreadable(6, "navigation mode"))?,
            grace_s: row.get(7)?,
            sections: sections(connection, version)?,
            items: items(connection, version)?,
        };
        let assessment = Arc::new(Assessment::new(plan, version));
        versions.insert(version, assessment.clone());
        if is_current {
            current.push(assessment);
        }
    }
    Ok((current, versions))
}

fn sections(connection: &Connection, version: u32) -> rusqlite::Result<Vec<Section>> {
    let sql = "SELECT id, name, time_limit_s, is_drawn, items_to_select, ordering FROM assessment_sections
               WHERE version = ?1 ORDER BY number";
    let section = |row: &Row<'_>| {
        let order: String = row.get(5)?;
        let known = Order::ALL.into_iter().find(|known| known.name() == order);
        Ok(Section {
            id: row.get(0)?,
            name: row.get(1)?,
            time_limit_s: row.get(2)?,
            is_drawn: row.get(3)?,
            items_to_select: row.get(4)?,
            order: known.ok_or_else(|| unreadable(5, "order of a section"))?,
        })
    };
    connection.prepare_cached(sql)?.query_map([version], section)?.collect()
}

fn items(connection: &Connection, version: u32) -> rusqlite::Result<Vec<Item>> {
    let sql = "SELECT id, section, content, metadata FROM assessment_items WHERE version = ?1 ORDER BY number";
    let item = |row: &Row<'_>| {
        Ok(Item { id: row.get(0)?, section: row.get(1)?, content: row.get(2)?, metadata: row.get(3)? })
    };
    connection.prepare_cached(sql)?.query_map([version], item)?.collect()
}

/// Writes what is known of a candidate.
///
/// # Errors
/// SQLite's own.
pub(super) fn put_candidate(connection: &Connection, candidate: &Candidate) -> rusqlite::Result<()> {
    let sql = "INSERT INTO candidates (id, name, is_active, extra_time) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT (id) DO UPDATE SET
                   name = excluded.name, is_active = excluded.is_active, extra_time = excluded.extra_time";
    let Candidate { id, name, is_active, extra_time } = candidate;
    connection.prepare_cached(sql)?.execute(params![id, name, is_active, integer(extra_time.billionths())])?;
    Ok(())
}

/// Everybody who is known.
///
/// # Errors
/// SQLite's own, and when a row has no meaning.
pub(super) fn candidates(connection: &Connection) -> rusqlite::Result<Vec<Candidate>> {
    let candidate = |row: &Row<'_>| {
        let extra_time = Factor::from_billionths(unsigned(row, 3)?);
        Ok(Candidate { id: row.get(0)?, name: row.get(1)?, is_active: row.get(2)?, extra_time })
    };
    connection.prepare("SELECT id, name, is_active, extra_time FROM candidates")?.query_map([], candidate)?.collect()
}
