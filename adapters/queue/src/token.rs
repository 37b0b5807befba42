//! Authentication: tokens, stored as SHA-256 only, and their permissions.
//!
//! A token is presented as `v2/<uuid>/<secret>` or as the bare secret. Tokens hold 258 random bits
//! (or are the operator's root token), so a plain hash without salt is enough. The row is found by
//! the hash, and the hash is compared again in constant time.

use std::sync::Arc;

use longshore_secret::Secret;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::QueueConfig;
use crate::error::{ApiError, QueueError};
use crate::events::Hub;
use crate::store::Store;
use crate::{clock, ids};

/// Number of valid secrets of one container token: the runner may ask again after a lost answer,
/// and two competing runners must not lock each other out.
const CONTAINER_SECRETS_MAX: usize = 8;
/// Maximum length of a token text.
const TOKEN_BYTES_MAX: usize = 512;

/// Permissions of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// All calls, including those of a dispatcher.
    Admin,
    /// Sees all containers; locks, unlocks and updates them.
    Dispatcher,
    /// Creates containers; sees, reprioritises and cancels its own.
    User,
}

impl Role {
    /// Name in the database and on the command line: `admin`, `dispatcher`, `user`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Dispatcher => "dispatcher",
            Self::User => "user",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = QueueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Admin, Self::Dispatcher, Self::User]
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| {
                QueueError::Token(format!(
                    "role: expected admin, dispatcher or user, got {text:?}"
                ))
            })
    }
}

/// Token without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Uuid `<cluster>-gj3su-<15 letters>`; `locked_by_uuid` of a container names it.
    pub uuid: String,
    /// Role of the token.
    pub role: Role,
    /// Owner of the containers visible to and created by a user's token.
    pub owner: String,
    /// Time of creation, RFC 3339, UTC.
    pub created_at: String,
}

/// Token management, in the server's process or in another process on the same database file.
#[derive(Clone)]
pub struct Tokens {
    store: Store,
    cluster_id: Arc<str>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("cluster_id", &self.cluster_id)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// Opens the database for token commands, without serving.
    ///
    /// # Errors
    /// As [`crate::QueueServer::bind`], except for the address.
    pub async fn open(config: &QueueConfig) -> Result<Self, QueueError> {
        config.check()?;
        let (config, hub) = (config.clone(), Arc::new(Hub::new(1)));
        let cluster = config.cluster_id.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&config, hub))
            .await
            .map_err(|e| QueueError::Server(format!("opening the database: {e}")))??;
        Ok(Self::new(store, &cluster))
    }

    pub(crate) fn new(store: Store, cluster_id: &str) -> Self {
        Self {
            store,
            cluster_id: cluster_id.into(),
        }
    }

    /// Sets the root token: an admin with the fixed uuid `<cluster>-gj3su-000000000000000`. An
    /// earlier root token stops working; its locks pass to the new token.
    ///
    /// # Errors
    /// [`QueueError::Token`] for a token that is empty, too long or contains blanks.
    pub async fn set_root(&self, token: &Secret) -> Result<TokenInfo, QueueError> {
        let uuid = ids::root_token_uuid(&self.cluster_id);
        let hash = hash_secret(Presented::check(token)?.secret);
        self.put(uuid, Role::Admin, "root".to_owned(), hash, true)
            .await
    }

    /// Adds a given token. Adding the same token again changes its role and owner only.
    ///
    /// # Errors
    /// [`QueueError::Token`] for a token that is empty, too long or contains blanks, or for an
    /// empty owner.
    pub async fn add(
        &self,
        role: Role,
        owner: &str,
        token: &Secret,
    ) -> Result<TokenInfo, QueueError> {
        check_owner(owner)?;
        let presented = Presented::check(token)?;
        let hash = hash_secret(presented.secret);
        let uuid = match presented.uuid {
            Some(uuid) => uuid.to_owned(),
            None => match self.uuid_of(hash).await? {
                Some(uuid) => uuid,
                None => ids::token_uuid(&self.cluster_id).map_err(server_error)?,
            },
        };
        self.put(uuid, role, owner.to_owned(), hash, false).await
    }

    /// Creates a token; the returned text `v2/<uuid>/<secret>` cannot be read again later.
    ///
    /// # Errors
    /// [`QueueError::Token`] for an empty owner.
    pub async fn create(&self, role: Role, owner: &str) -> Result<(TokenInfo, Secret), QueueError> {
        check_owner(owner)?;
        let uuid = ids::token_uuid(&self.cluster_id).map_err(server_error)?;
        let secret = ids::token_secret().map_err(server_error)?;
        let full = Secret::new(format!("v2/{uuid}/{}", secret.expose()));
        let info = self
            .put(
                uuid,
                role,
                owner.to_owned(),
                hash_secret(secret.expose()),
                false,
            )
            .await?;
        Ok((info, full))
    }

    /// Revokes a token at once; `false` for an unknown uuid. Containers locked with it stay locked
    /// until an admin cancels them.
    ///
    /// # Errors
    /// [`QueueError::Server`] if the database fails.
    pub async fn revoke(&self, uuid: &str) -> Result<bool, QueueError> {
        let uuid = uuid.to_owned();
        self.store
            .write(move |tx, _| {
                let sql = "DELETE FROM tokens WHERE uuid = ?1 AND role <> 'container'";
                Ok(tx.execute(sql, [uuid])? == 1)
            })
            .await
            .map_err(server_error)
    }

    /// All tokens except container tokens, oldest first.
    ///
    /// # Errors
    /// [`QueueError::Server`] if the database fails.
    pub async fn list(&self) -> Result<Vec<TokenInfo>, QueueError> {
        let rows = self
            .store
            .read(|tx| {
                let sql = "SELECT uuid, role, owner, created_at FROM tokens WHERE role <> 'container' ORDER BY created_at, uuid";
                let mut statement = tx.prepare(sql)?;
                let rows = statement.query_map([], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?))
                })?;
                Ok(rows.collect::<rusqlite::Result<Vec<(String, String, String, i64)>>>()?)
            })
            .await
            .map_err(server_error)?;
        rows.into_iter()
            .map(|(uuid, role, owner, at)| {
                Ok(TokenInfo {
                    uuid,
                    role: role.parse()?,
                    owner,
                    created_at: clock::format(at),
                })
            })
            .collect()
    }

    async fn uuid_of(&self, hash: [u8; 32]) -> Result<Option<String>, QueueError> {
        self.store
            .read(move |tx| {
                let sql = "SELECT token_uuid FROM token_secrets WHERE sha256 = ?1";
                Ok(tx.query_row(sql, [hash], |row| row.get(0)).optional()?)
            })
            .await
            .map_err(server_error)
    }

    async fn put(
        &self,
        uuid: String,
        role: Role,
        owner: String,
        hash: [u8; 32],
        replace: bool,
    ) -> Result<TokenInfo, QueueError> {
        let created = self
            .store
            .write(move |tx, _| {
                let at = put_token(tx, &uuid, role.name(), &owner, None)?;
                if replace {
                    tx.execute("DELETE FROM token_secrets WHERE token_uuid = ?1", [&uuid])?;
                }
                put_secret(tx, &uuid, &hash)?;
                Ok(TokenInfo {
                    uuid,
                    role,
                    owner,
                    created_at: clock::format(at),
                })
            })
            .await;
        created.map_err(server_error)
    }
}

/// Caller of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) token_uuid: String,
    pub(crate) owner: String,
    pub(crate) created_at: i64,
    pub(crate) scope: Scope,
}

/// Scope of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Person(Role),
    /// Token of this container.
    Container(String),
}

impl Caller {
    pub(crate) fn is_admin(&self) -> bool {
        self.scope == Scope::Person(Role::Admin)
    }

    /// True for admins and dispatchers.
    pub(crate) fn is_dispatcher(&self) -> bool {
        matches!(self.scope, Scope::Person(Role::Admin | Role::Dispatcher))
    }

    pub(crate) fn is_user(&self) -> bool {
        self.scope == Scope::Person(Role::User)
    }

    /// True if the caller may see a container with this uuid and owner.
    pub(crate) fn may_see(&self, uuid: &str, owner: &str) -> bool {
        match &self.scope {
            Scope::Person(Role::Admin | Role::Dispatcher) => true,
            Scope::Person(Role::User) => owner == self.owner,
            Scope::Container(own) => own == uuid,
        }
    }

    pub(crate) fn role_name(&self) -> &'static str {
        match &self.scope {
            Scope::Person(role) => role.name(),
            Scope::Container(_) => "container",
        }
    }
}

/// Caller for a presented token; 401 for an unknown token.
pub(crate) fn authenticate(connection: &Connection, token: &Secret) -> Result<Caller, ApiError> {
    let presented = Presented::check(token).map_err(|_| ApiError::unauthorized())?;
    let hash = hash_secret(presented.secret);
    let sql = "SELECT t.uuid, t.role, t.owner, t.container_uuid, t.created_at, s.sha256 \
               FROM token_secrets s JOIN tokens t ON t.uuid = s.token_uuid WHERE s.sha256 = ?1";
    let row = connection
        .prepare_cached(sql)?
        .query_row([hash], |row| {
            let scope = match row.get::<_, Option<String>>(3)? {
                Some(container) => Some(Scope::Container(container)),
                None => row.get::<_, String>(1)?.parse().ok().map(Scope::Person),
            };
            let caller = (row.get::<_, String>(0)?, row.get(2)?, row.get(4)?);
            Ok((caller, scope, row.get::<_, [u8; 32]>(5)?))
        })
        .optional()?;
    let Some(((token_uuid, owner, created_at), Some(scope), stored)) = row else {
        return Err(ApiError::unauthorized());
    };
    let same_secret = bool::from(stored.ct_eq(&hash));
    let same_uuid = presented
        .uuid
        .is_none_or(|uuid| uuid.as_bytes().ct_eq(token_uuid.as_bytes()).into());
    if same_secret && same_uuid {
        Ok(Caller {
            token_uuid,
            owner,
            created_at,
            scope,
        })
    } else {
        Err(ApiError::unauthorized())
    }
}

/// Creates the token of a newly locked container, still without a secret.
pub(crate) fn open_container_token(
    tx: &Transaction<'_>,
    token_uuid: &str,
    container_uuid: &str,
    owner: &str,
) -> Result<(), ApiError> {
    put_token(tx, token_uuid, "container", owner, Some(container_uuid))?;
    Ok(())
}

/// Revokes every token of a container.
pub(crate) fn expire_container_tokens(
    tx: &Transaction<'_>,
    container_uuid: &str,
) -> Result<(), ApiError> {
    tx.execute(
        "DELETE FROM tokens WHERE container_uuid = ?1",
        [container_uuid],
    )?;
    Ok(())
}

/// New secret for a container's token; the oldest secrets above the bound stop working.
pub(crate) fn issue_container_secret(
    tx: &Transaction<'_>,
    token_uuid: &str,
) -> Result<Secret, ApiError> {
    let secret = ids::token_secret()?;
    put_secret(tx, token_uuid, &hash_secret(secret.expose()))?;
    tx.execute(
        "DELETE FROM token_secrets WHERE sha256 IN (SELECT sha256 FROM token_secrets \
         WHERE token_uuid = ?1 ORDER BY created_at DESC LIMIT -1 OFFSET ?2)",
        params![token_uuid, CONTAINER_SECRETS_MAX as i64],
    )?;
    Ok(secret)
}

/// Presented token, with or without its uuid.
struct Presented<'a> {
    uuid: Option<&'a str>,
    secret: &'a str,
}

impl<'a> Presented<'a> {
    fn check(token: &'a Secret) -> Result<Self, QueueError> {
        let text = token.expose();
        if text.is_empty()
            || text.len() > TOKEN_BYTES_MAX
            || !text.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(QueueError::Token(format!(
                "expected 1 to {TOKEN_BYTES_MAX} printable ASCII characters without blanks"
            )));
        }
        let Some(rest) = text.strip_prefix("v2/") else {
            return Ok(Self {
                uuid: None,
                secret: text,
            });
        };
        match rest.split_once('/') {
            Some((uuid, secret)) if ids::is_token_uuid(uuid) && !secret.is_empty() => Ok(Self {
                uuid: Some(uuid),
                secret,
            }),
            _ => Err(QueueError::Token(
                "expected v2/<token uuid>/<secret>".to_owned(),
            )),
        }
    }
}

fn hash_secret(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Inserts or renews a token. Returns the time of creation, unchanged by a renewal.
fn put_token(
    tx: &Transaction<'_>,
    uuid: &str,
    role: &str,
    owner: &str,
    container_uuid: Option<&str>,
) -> Result<i64, ApiError> {
    let sql = "INSERT INTO tokens (uuid, role, owner, container_uuid, created_at) VALUES (?1, ?2, ?3, ?4, ?5) \
               ON CONFLICT (uuid) DO UPDATE SET role = excluded.role, owner = excluded.owner RETURNING created_at";
    let values = params![uuid, role, owner, container_uuid, clock::now_ns()];
    Ok(tx.query_row(sql, values, |row| row.get(0))?)
}

fn put_secret(tx: &Transaction<'_>, token_uuid: &str, hash: &[u8; 32]) -> Result<(), ApiError> {
    let sql = "INSERT INTO token_secrets (sha256, token_uuid, created_at) VALUES (?1, ?2, ?3) \
               ON CONFLICT (sha256) DO UPDATE SET token_uuid = excluded.token_uuid";
    tx.execute(sql, params![hash, token_uuid, clock::now_ns()])?;
    Ok(())
}

fn check_owner(owner: &str) -> Result<(), QueueError> {
    if owner.is_empty() || owner.len() > 255 || owner.chars().any(char::is_control) {
        return Err(QueueError::Token(format!(
            "owner: expected 1 to 255 bytes without control characters, got {owner:?}"
        )));
    }
    Ok(())
}

fn server_error(error: impl Into<ApiError>) -> QueueError {
    QueueError::Server(error.into().message)
}
