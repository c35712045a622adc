// Lets forms with data-passkey talk to the browser's authenticator: the
// question comes from data-options, the answer goes into the field "answer",
// and the form is sent as any other. Without this script such forms stay hidden.
"use strict";

const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

function decode(options) {
  const named = (list) => (list ?? []).map((c) => ({ ...c, id: bytes(c.id) }));
  options.challenge = bytes(options.challenge);
  if (options.user) options.user.id = bytes(options.user.id);
  if (options.excludeCredentials) options.excludeCredentials = named(options.excludeCredentials);
  if (options.allowCredentials) options.allowCredentials = named(options.allowCredentials);
  return options;
}

function encode(credential) {
  const response = { clientDataJSON: text(credential.response.clientDataJSON) };
  for (const name of ["attestationObject", "authenticatorData", "signature", "userHandle"]) {
    if (credential.response[name]) response[name] = text(credential.response[name]);
  }
  if (credential.response.getTransports) response.transports = credential.response.getTransports();
  return JSON.stringify({
    id: credential.id, rawId: text(credential.rawId), type: credential.type, response,
    authenticatorAttachment: credential.authenticatorAttachment ?? undefined, clientExtensionResults: {},
  });
}

async function question(form) {
  const answer = await fetch(form.dataset.options, { method: "POST", headers: { Accept: "application/json" }, redirect: "error" });
  const body = await answer.json();
  if (body.next) {
    location.assign(body.next);
    return null;
  }
  if (!answer.ok) throw new Error(body.detail ?? "The server did not answer.");
  return decode(body.publicKey);
}

function why(error) {
  if (error.name === "NotAllowedError") return "The passkey was not used. Try again, or choose another way.";
  if (error.name === "InvalidStateError") return "This device has a passkey of yours already.";
  if (error.name === "TypeError") return "The server cannot be reached. Check your connection and try again.";
  return error.message;
}

function tell(form, message) {
  let place = form.querySelector("[role=alert]");
  if (!place) {
    place = document.createElement("p");
    place.className = "problem";
    place.setAttribute("role", "alert");
    form.append(place);
  }
  place.textContent = message;
}

async function run(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  try {
    const publicKey = await question(form);
    if (!publicKey) return;
    const credential = await navigator.credentials[form.dataset.passkey]({ publicKey });
    form.elements.answer.value = encode(credential);
    form.submit();
  } catch (error) {
    tell(form, why(error));
    button.disabled = false;
  }
}

if (window.PublicKeyCredential) {
  for (const form of document.querySelectorAll("form[data-passkey]")) {
    form.hidden = false;
    form.addEventListener("submit", run);
  }
} else {
  for (const form of document.querySelectorAll("form[data-passkey]")) {
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = "This browser knows no passkeys.";
    form.replaceWith(hint);
  }
}
