// Two certified OpenID Connect clients, openid-client and oauth4webapi, go
// through every grant that the edge offers to clients. What it needs comes as
// one JSON object on standard input, so that no password or key stands in a list
// of processes; each grant is one line on standard output, and the first thing
// that is not as it should be ends it with exit code 1.
//
// Exchange, and credentials by certificate, are for planes: those go to the
// control plane's own listener with SVIDs that the test was given.
import { readFileSync } from "node:fs";
import https from "node:https";
import * as client from "openid-client";
import * as oauth from "oauth4webapi";

const { base, user, password, redirect, resource, scope, confidential, jwk, inside } = JSON.parse(readFileSync(0, "utf8"));
const issuer = new URL(base + "/");

function demand(condition, text) {
  if (!condition) throw new Error(text);
}

async function step(name, run) {
  try {
    const out = await run();
    console.log(`ok ${name}`);
    return out;
  } catch (e) {
    console.log(`not ok ${name}`);
    throw e;
  }
}

// Browser is as much of one as a login needs: cookies, and no redirect that
// nobody looked at.
class Browser {
  cookies = new Map();

  async go(url, init = {}) {
    const headers = { ...init.headers, cookie: [...this.cookies].map(([k, v]) => `${k}=${v}`).join("; ") };
    const res = await fetch(url, { ...init, headers, redirect: "manual" });
    for (const line of res.headers.getSetCookie()) {
      const [pair, ...attributes] = line.split(";");
      const [name, value] = pair.split(/=(.*)/s);
      if (attributes.some((a) => a.trim().toLowerCase() === "max-age=0") || value === "") this.cookies.delete(name);
      else this.cookies.set(name, value);
    }
    return res;
  }

  // authorize follows the request to the client's own address, by way of the
  // login form if need be.
  async authorize(url) {
    let res = await this.go(url);
    const at = new URL(res.headers.get("location") ?? "", base);
    if (at.pathname === "/login") {
      const body = new URLSearchParams({ username: user, password, next: at.searchParams.get("next") });
      res = await this.go(base + "/login", { method: "POST", body });
      demand(this.cookies.has("__Host-rampart_sid"), `login answered ${res.status} and set no session`);
      res = await this.go(new URL(at.searchParams.get("next"), base));
    }
    demand(res.status === 303, `authorize answered ${res.status}, not 303`);
    return new URL(res.headers.get("location"), base);
  }
}

const config = await step("discovery", async () => {
  const c = await client.discovery(issuer, "app", undefined, client.None());
  demand(c.serverMetadata().issuer === issuer.href, "another issuer");
  const plain = await client.discovery(issuer, "app", undefined, client.None(), { algorithm: "oauth2" });
  demand(plain.serverMetadata().token_endpoint === c.serverMetadata().token_endpoint, "two documents that differ");
  return c;
});

await step("protected resource metadata", async () => {
  const meta = await oauth.processResourceDiscoveryResponse(issuer, await oauth.resourceDiscoveryRequest(issuer));
  demand(meta.authorization_servers.includes(issuer.href), "names another authorization server");
});

// request is what both halves of a code grant share.
async function request(c, extra = {}) {
  const verifier = client.randomPKCECodeVerifier();
  const state = client.randomState();
  const nonce = client.randomNonce();
  const url = client.buildAuthorizationUrl(c, {
    redirect_uri: redirect, scope, state, nonce,
    code_challenge: await client.calculatePKCECodeChallenge(verifier), code_challenge_method: "S256", ...extra,
  });
  return { url, checks: { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, idTokenExpected: true } };
}

const browser = new Browser();

let tokens = await step("authorization code with PKCE", async () => {
  const { url, checks } = await request(config);
  const t = await client.authorizationCodeGrant(config, await browser.authorize(url), checks);
  demand(t.token_type === "bearer", `token_type ${t.token_type}`);
  demand(t.claims().sub === "user:" + user && t.claims().acr && t.claims().auth_time, "the ID token says too little");
  return t;
});

await step("userinfo", async () => {
  const info = await client.fetchUserInfo(config, tokens.access_token, tokens.claims().sub);
  demand(info.name === user, `userinfo names ${info.name}`);
});

await step("protected resource", async () => {
  const res = await client.fetchProtectedResource(config, tokens.access_token, new URL(resource), "GET");
  demand(res.status === 200, `the API answered ${res.status}`);
});

tokens = await step("refresh", async () => {
  const t = await client.refreshTokenGrant(config, tokens.refresh_token);
  demand(t.refresh_token && t.refresh_token !== tokens.refresh_token, "a public client's refresh token did not rotate");
  demand(t.access_token !== tokens.access_token, "the same access token again");
  return t;
});

await step("refresh, narrower", async () => {
  const t = await client.refreshTokenGrant(config, tokens.refresh_token, { scope: "openid" });
  demand(t.scope === "openid", `scope ${t.scope}`);
  tokens = { ...t, claims: t.claims };
});

await step("a hundred refreshes at once", async () => {
  const all = await Promise.all(Array.from({ length: 100 }, () => client.refreshTokenGrant(config, tokens.refresh_token)));
  const successors = new Set(all.map((t) => t.refresh_token));
  demand(successors.size === 1, `${successors.size} successors`);
  tokens = await client.refreshTokenGrant(config, [...successors][0]);
});

await step("prompt=none with a session", async () => {
  const { url, checks } = await request(config, { prompt: "none" });
  await client.authorizationCodeGrant(config, await browser.authorize(url), checks);
});

await step("prompt=none without one", async () => {
  const { url, checks } = await request(config, { prompt: "none" });
  try {
    await client.authorizationCodeGrant(config, await new Browser().authorize(url), checks);
  } catch (e) {
    demand(e.error === "login_required", `error ${e.error ?? e}`);
    return;
  }
  throw new Error("nobody was let in");
});

await step("max_age", async () => {
  const { url, checks } = await request(config, { max_age: "3600" });
  await client.authorizationCodeGrant(config, await browser.authorize(url), { ...checks, maxAge: 3600 });
});

await step("a code is good once", async () => {
  const { url, checks } = await request(config);
  const back = await browser.authorize(url);
  const t = await client.authorizationCodeGrant(config, back, checks);
  for (const again of [() => client.authorizationCodeGrant(config, back, checks), () => client.refreshTokenGrant(config, t.refresh_token)]) {
    try {
      await again();
    } catch (e) {
      demand(e.error === "invalid_grant", `error ${e.error ?? e}`);
      continue;
    }
    throw new Error("what a code was traded for outlived its second use");
  }
});

// The low-level client does the same with DPoP, its nonce dance included.
const as = config.serverMetadata();
const app = { client_id: "app" };

// withNonce repeats a request once, with the nonce that the server asked for.
async function withNonce(send, read) {
  try {
    return await read(await send());
  } catch (e) {
    if (!oauth.isDPoPNonceError(e)) throw e;
    return await read(await send());
  }
}

const dpop = await step("authorization code with PKCE and DPoP", async () => {
  const handle = oauth.DPoP(app, await oauth.generateKeyPair("ES256"));
  const { url, checks } = await request(config, { dpop_jkt: await handle.calculateThumbprint() });
  const params = oauth.validateAuthResponse(as, app, await browser.authorize(url), checks.expectedState);
  const t = await withNonce(
    () => oauth.authorizationCodeGrantRequest(as, app, oauth.None(), params, redirect, checks.pkceCodeVerifier, { DPoP: handle }),
    (res) => oauth.processAuthorizationCodeResponse(as, app, res, { expectedNonce: checks.expectedNonce, requireIdToken: true }),
  );
  demand(t.token_type === "dpop", `token_type ${t.token_type}`);
  return { handle, ...t };
});

await step("userinfo with DPoP", () =>
  withNonce(
    () => oauth.userInfoRequest(as, app, dpop.access_token, { DPoP: dpop.handle }),
    (res) => oauth.processUserInfoResponse(as, app, "user:" + user, res),
  ));

await step("protected resource with DPoP", () =>
  withNonce(
    () => oauth.protectedResourceRequest(dpop.access_token, "GET", new URL(resource), undefined, undefined, { DPoP: dpop.handle }),
    async (res) => demand(res.status === 200, `the API answered ${res.status}`),
  ));

await step("a bound token is no bearer token", async () => {
  const res = await fetch(resource, { headers: { authorization: `Bearer ${dpop.access_token}` } });
  demand(res.status === 401, `the API answered ${res.status}`);
});

await step("refresh with DPoP", async () => {
  const t = await withNonce(
    () => oauth.refreshTokenGrantRequest(as, app, oauth.None(), dpop.refresh_token, { DPoP: dpop.handle }),
    (res) => oauth.processRefreshTokenResponse(as, app, res),
  );
  demand(t.token_type === "dpop", `token_type ${t.token_type}`);
  dpop.refresh_token = t.refresh_token;
});

await step("refresh with another key is refused", async () => {
  const thief = oauth.DPoP(app, await oauth.generateKeyPair("ES256"));
  try {
    await withNonce(
      () => oauth.refreshTokenGrantRequest(as, app, oauth.None(), dpop.refresh_token, { DPoP: thief }),
      (res) => oauth.processRefreshTokenResponse(as, app, res),
    );
  } catch (e) {
    demand(e.error === "invalid_grant", `error ${e.error ?? e}`);
    return;
  }
  throw new Error("a stolen refresh token works");
});

const key = await crypto.subtle.importKey("jwk", jwk, { name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);
const own = await client.discovery(issuer, confidential, { id_token_signed_response_alg: "ES256" }, client.PrivateKeyJwt({ key, kid: jwk.kid }));

const machine = await step("client credentials with private_key_jwt", async () => {
  const t = await client.clientCredentialsGrant(own, { scope: scope.split(" ").find((s) => s.includes(":")) });
  demand(!t.refresh_token && t.expires_in <= 300, "a client's own token lives too long");
  return t;
});

// withSVID is fetch with a certificate. The other end has a SPIFFE ID, which is
// no host name: its chain is verified, and its URI must be the control plane's.
function withSVID({ cert, key }) {
  const agent = new https.Agent({
    cert, key, ca: inside.ca, minVersion: "TLSv1.3",
    checkServerIdentity: (_, peer) => (peer.subjectaltname === `URI:${inside.control}` ? undefined : new Error(`the peer is ${peer.subjectaltname}`)),
  });
  return (url, init) => new Promise((resolve, reject) => {
    const req = https.request(url, { agent, method: init.method, headers: Object.fromEntries(new Headers(init.headers)) }, (res) => {
      const parts = [];
      res.on("data", (part) => parts.push(part));
      res.on("end", () => resolve(new Response(Buffer.concat(parts), { status: res.statusCode, headers: new Headers(Object.entries(res.headers).filter(([, v]) => typeof v === "string")) })));
    });
    req.on("error", reject);
    req.end(init.body?.toString());
  });
}

const planes = { issuer: issuer.href, token_endpoint: `${inside.address}/oauth2/token` };

await step("token exchange with an SVID", async () => {
  const { url, checks } = await request(config);
  const t = await client.authorizationCodeGrant(config, await browser.authorize(url), checks);
  const exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
  const params = { subject_token: t.access_token, subject_token_type: "urn:ietf:params:oauth:token-type:access_token", audience: inside.audience };
  const ask = (more) => oauth.genericTokenEndpointRequest(planes, { client_id: inside.gateway.id }, oauth.TlsClientAuth(), exchange, { ...params, ...more }, { [oauth.customFetch]: withSVID(inside.gateway) });
  const got = await oauth.processGenericTokenEndpointResponse(planes, { client_id: inside.gateway.id }, await ask({}));
  const claims = JSON.parse(Buffer.from(got.access_token.split(".")[1], "base64url"));
  demand(claims.sub === `user:${user}` && claims.aud === inside.audience && claims.act.sub === inside.gateway.id, `claims ${JSON.stringify(claims)}`);
  const wider = await (await ask({ scope: "catalog:delete" })).json();
  demand(wider.error === "invalid_scope", `asking for more: ${JSON.stringify(wider)}`);
});

await step("client credentials with a certificate", async () => {
  const c = { client_id: inside.service.client };
  const res = await oauth.clientCredentialsGrantRequest(planes, c, oauth.TlsClientAuth(), {}, { [oauth.customFetch]: withSVID(inside.service) });
  const got = await oauth.processClientCredentialsResponse(planes, c, res);
  const claims = JSON.parse(Buffer.from(got.access_token.split(".")[1], "base64url"));
  demand(claims.cnf["x5t#S256"], "the token is not bound to the certificate");
});

await step("introspection", async () => {
  const said = await client.tokenIntrospection(own, machine.access_token);
  const claims = JSON.parse(Buffer.from(machine.access_token.split(".")[1], "base64url"));
  for (const [name, value] of Object.entries(claims)) {
    demand(JSON.stringify(said[name]) === JSON.stringify(value), `introspection says ${JSON.stringify(said[name])} for ${name}, the token ${JSON.stringify(value)}`);
  }
  demand(said.active && Object.keys(said).length === Object.keys(claims).length + 2, "introspection says more than the token");
  const foreign = await client.tokenIntrospection(own, tokens.access_token);
  demand(foreign.active === false && Object.keys(foreign).length === 1, "another client's token is shown");
});

await step("revocation of an access token", async () => {
  await client.tokenRevocation(own, machine.access_token);
  demand((await client.tokenIntrospection(own, machine.access_token)).active === false, "it is still active");
});

await step("authorization code with private_key_jwt", async () => {
  const { url, checks } = await request(own);
  const t = await client.authorizationCodeGrant(own, await browser.authorize(url), checks);
  const next = await client.refreshTokenGrant(own, t.refresh_token);
  demand(next.refresh_token === t.refresh_token, "a confidential client's refresh token rotated");
});

await step("revocation of a refresh token", async () => {
  await client.tokenRevocation(config, tokens.refresh_token);
  try {
    await client.refreshTokenGrant(config, tokens.refresh_token);
  } catch (e) {
    demand(e.error === "invalid_grant", `error ${e.error ?? e}`);
    return;
  }
  throw new Error("it still works");
});

await step("end of the session", async () => {
  const { url, checks } = await request(config);
  const t = await client.authorizationCodeGrant(config, await browser.authorize(url), checks);
  const end = client.buildEndSessionUrl(config, { id_token_hint: t.id_token, post_logout_redirect_uri: redirect, state: "bye" });
  const res = await browser.go(end);
  demand(res.status === 303 && res.headers.get("location") === `${redirect}?state=bye`, `answered ${res.status} to ${res.headers.get("location")}`);
  const silent = await request(config, { prompt: "none" });
  const back = await browser.authorize(silent.url);
  demand(back.searchParams.get("error") === "login_required", "the session lives on");
  try {
    await client.refreshTokenGrant(config, t.refresh_token);
  } catch (e) {
    demand(e.error === "invalid_grant", `error ${e.error ?? e}`);
    return;
  }
  throw new Error("the client's login outlives the session");
});
