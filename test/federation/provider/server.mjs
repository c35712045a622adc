// A certified OpenID provider in the part of a company's login. It signs in
// whoever comes as the one person it knows, asks for no consent, and tells its
// clients when that person leaves.
//
// It reads its settings from standard input and prints one line when it is up.
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:https";
import { text } from "node:stream/consumers";
import Provider from "oidc-provider";

const settings = JSON.parse(await text(process.stdin));
const key = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });

const person = { sub: "0a1b", email: "ann@corp.example", email_verified: true, groups: ["admins", "everybody"] };

const provider = new Provider(settings.issuer, {
  clients: [{
    client_id: settings.client, client_secret: settings.secret, redirect_uris: [settings.redirect],
    response_types: ["code"], grant_types: ["authorization_code"], id_token_signed_response_alg: "RS256",
    backchannel_logout_uri: settings.logout, backchannel_logout_session_required: true,
  }],
  jwks: { keys: [{ ...key, kid: "k1", use: "sig", alg: "RS256" }] },
  cookies: { keys: [settings.secret] },
  scopes: ["openid", "email", "groups"],
  claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups"], acr: null, amr: null, auth_time: null, iss: null, sid: null },
  pkce: { required: () => true },
  features: { devInteractions: { enabled: false }, backchannelLogout: { enabled: true } },
  // The edge of this test is on this machine, which the provider would not call,
  // and a busy machine takes longer than the 2.5 s that it would wait.
  fetch: (address, { dispatcher, signal, ...options }) => fetch(address, { ...options, signal: AbortSignal.timeout(20_000) }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (_, sub) => ({ accountId: sub, claims: () => person }),
});

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith("/interaction/")) return next();
  const { prompt, params, grantId, session } = await provider.interactionDetails(ctx.req, ctx.res);
  if (prompt.name === "login") {
    return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: person.sub, acr: "urn:corp:mfa", amr: ["otp"] } });
  }
  const grant = (grantId && await provider.Grant.find(grantId)) || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  if (prompt.details.missingOIDCScope) grant.addOIDCScope(prompt.details.missingOIDCScope.join(" "));
  if (prompt.details.missingOIDCClaims) grant.addOIDCClaims(prompt.details.missingOIDCClaims);
  return provider.interactionFinished(ctx.req, ctx.res, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
});

for (const event of ["server_error", "authorization.error", "grant.error", "backchannel.error"]) {
  provider.on(event, (...args) => console.log(event, args.find((a) => a instanceof Error)?.stack));
}
provider.on("backchannel.success", () => console.log("backchannel.success"));
provider.on("grant.success", (ctx) => console.log("grant.success", ctx.oidc.entities.AuthorizationCode?.codeChallengeMethod));

createServer({ key: settings.key, cert: settings.cert }, provider.callback())
  .listen(settings.port, "127.0.0.1", () => console.log("ready"));
