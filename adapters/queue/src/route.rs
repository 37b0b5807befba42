//! Which of the calls a method and a path ask for.

use axum::http::Method;

use crate::error::ApiError;
use crate::ids;

/// One call of the API.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    CurrentToken,
    List,
    Create,
    Events,
    Get(String),
    Update(String),
    Delete(String),
    Auth(String),
    Lock(String),
    Unlock(String),
    Cancel(String),
    Requeue(String),
    AppendLog(String),
    ReadLog(String),
}

/// Finds the call; 404 for an unknown path, 405 for a known path with another method.
pub(crate) fn find(method: &Method, path: &str) -> Result<Route, ApiError> {
    let Some(rest) = path.strip_prefix("/arvados/v1/") else {
        return Err(no_path(path));
    };
    let parts: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
    let wrong_method = |allowed: &str| {
        Err(ApiError::method_not_allowed(format!(
            "{path}: expected {allowed}, got {method}"
        )))
    };
    match *parts.as_slice() {
        ["api_client_authorizations", "current"] => match *method {
            Method::GET => Ok(Route::CurrentToken),
            _ => wrong_method("GET"),
        },
        ["containers"] => match *method {
            Method::GET => Ok(Route::List),
            Method::POST => Ok(Route::Create),
            _ => wrong_method("GET or POST"),
        },
        ["containers", "events"] => match *method {
            Method::GET => Ok(Route::Events),
            _ => wrong_method("GET"),
        },
        ["containers", uuid] => match *method {
            Method::GET => Ok(Route::Get(known(uuid)?)),
            Method::PUT | Method::PATCH => Ok(Route::Update(known(uuid)?)),
            Method::DELETE => Ok(Route::Delete(known(uuid)?)),
            _ => wrong_method("GET, PUT, PATCH or DELETE"),
        },
        ["containers", uuid, "auth"] => match *method {
            Method::GET => Ok(Route::Auth(known(uuid)?)),
            _ => wrong_method("GET"),
        },
        ["containers", uuid, "log"] => match *method {
            Method::GET => Ok(Route::ReadLog(known(uuid)?)),
            Method::POST => Ok(Route::AppendLog(known(uuid)?)),
            _ => wrong_method("GET or POST"),
        },
        [
            "containers",
            uuid,
            action @ ("lock" | "unlock" | "cancel" | "requeue"),
        ] => match (method, action) {
            (&Method::POST, "lock") => Ok(Route::Lock(known(uuid)?)),
            (&Method::POST, "unlock") => Ok(Route::Unlock(known(uuid)?)),
            (&Method::POST, "requeue") => Ok(Route::Requeue(known(uuid)?)),
            (&Method::POST, _) => Ok(Route::Cancel(known(uuid)?)),
            _ => wrong_method("POST"),
        },
        _ => Err(no_path(path)),
    }
}

fn no_path(path: &str) -> ApiError {
    let shown: String = path.chars().take(200).collect();
    ApiError::not_found(format!(
        "path {shown} not found: the API begins at /arvados/v1/containers"
    ))
}

fn known(uuid: &str) -> Result<String, ApiError> {
    if ids::is_container_uuid(uuid) {
        Ok(uuid.to_owned())
    } else {
        Err(ApiError::no_container(
            &uuid.chars().take(64).collect::<String>(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_and_every_other_is_refused() {
        let uuid = "zzzzz-dz642-000000000000000";
        let status = |method: Method, path: &str| {
            find(&method, &format!("/arvados/v1/{path}")).map_err(|e| e.status.as_u16())
        };
        assert_eq!(status(Method::GET, "containers"), Ok(Route::List));
        assert_eq!(status(Method::GET, "containers/"), Ok(Route::List));
        assert_eq!(status(Method::GET, "containers/events"), Ok(Route::Events));
        assert_eq!(
            status(Method::PATCH, &format!("containers/{uuid}")),
            Ok(Route::Update(uuid.into()))
        );
        assert_eq!(
            status(Method::POST, &format!("containers/{uuid}/lock")),
            Ok(Route::Lock(uuid.into()))
        );
        assert_eq!(
            status(Method::GET, &format!("containers/{uuid}/lock")),
            Err(405)
        );
        assert_eq!(status(Method::POST, "containers/x/lock"), Err(404));
        assert_eq!(
            status(Method::GET, &format!("containers/{uuid}/secret_mounts")),
            Err(404)
        );
        assert_eq!(status(Method::GET, "collections"), Err(404));
        assert_eq!(status(Method::DELETE, "containers"), Err(405));
        assert!(find(&Method::GET, "/").is_err());
    }
}
