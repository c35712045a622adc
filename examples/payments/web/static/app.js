"use strict";

const $ = (id) => document.getElementById(id);

// call asks the API and answers with the JSON body; a refusal is an Error with
// the problem's detail (RFC 9457). Without a session it goes to the login; where
// a fresh second factor is asked for (RFC 9470), to the page that takes it, and
// back to this one. What cannot be answered for the moment is read again: a
// service that has just started is not asked for long.
async function call(method, path, body, headers = {}) {
  const init = { method, headers: { Accept: "application/json", ...headers } };
  if (body !== undefined) {
    init.headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  let answer = await fetch(path, init);
  for (let tries = 0; answer.status === 503 && method === "GET" && tries < 10; tries++) {
    await new Promise((again) => setTimeout(again, 500));
    answer = await fetch(path, init);
  }
  const text = await answer.text();
  let data;
  try {
    data = text ? JSON.parse(text) : undefined;
  } catch {
    throw new Error(`The shop gave an answer that this page cannot read (${answer.status}).`);
  }
  if (answer.status === 401) {
    const to = new URL((data && data.step_up) || "/login", location.origin);
    to.searchParams.set("next", location.pathname + location.search);
    location.assign(to.pathname + to.search);
    throw new Error("Please log in.");
  }
  if (!answer.ok) throw new Error((data && (data.detail || data.title)) || `Error ${answer.status}`);
  return data;
}

// nonce makes a captured request worthless; each try takes a new one.
function nonce() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const base64 = btoa(String.fromCharCode(...bytes));
  const random = base64.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${Math.floor(Date.now() / 1000)}.${random}`;
}

const money = (minor, currency) =>
  new Intl.NumberFormat(undefined, { style: "currency", currency }).format(minor / 100);
const date = (iso) =>
  new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso));

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

// plain undoes the escapes of text that the server keeps safe for HTML. It is
// shown as text again.
function plain(text) {
  return new DOMParser().parseFromString(text, "text/html").body.textContent;
}

const say = (text) => { $("message").textContent = text; };

// during disables a button as long as work runs, and tells what went wrong.
async function during(button, tell, work) {
  button.disabled = true;
  tell("");
  try {
    await work();
  } catch (err) {
    tell(err.message);
  } finally {
    button.disabled = false;
  }
}

async function showWho() {
  const session = await call("GET", "/session");
  const name = session.subject.replace(/^user:/, "");
  $("who").textContent = session.roles && session.roles.length ? `${name} · ${session.roles.join(", ")}` : name;
  return session;
}

async function showOrders(subject) {
  const [orders, payments] = await Promise.all([call("GET", "/orders"), call("GET", "/payments")]);
  const paid = new Map();
  for (const p of payments) if (p.status === "completed") paid.set(p.order_id, p.id);
  const rows = orders.map((o) => orderRow(o, paid.get(o.id), o.owner === subject));
  $("orders").replaceChildren(...rows);
  $("orders").setAttribute("aria-busy", "false");
  $("empty").hidden = orders.length > 0;
}

// article is how the form below the list calls what the API calls by its SKU.
const article = (sku) => [...$("sku").options].find((o) => o.value === sku)?.text ?? sku;

function orderRow(order, paymentID, mine) {
  const row = element("li");
  row.dataset.id = order.id;
  const what = order.items.map((i) => `${i.quantity} × ${article(i.sku)}`).join(", ");
  const whose = mine ? order.org : `${order.org} · ${order.owner.replace(/^user:/, "")}`;
  const left = element("div");
  left.append(element("div", "what", what), element("div", "when", `${date(order.created)} · ${whose}`));
  const act = element("div", "act");
  if (paymentID) {
    const link = element("a", "paid", "Paid · receipt");
    link.href = `/receipt?id=${encodeURIComponent(paymentID)}`;
    act.append(link);
  } else if (mine) {
    const pay = element("button", "pay", "Pay");
    pay.type = "button";
    pay.setAttribute("aria-label", `Pay ${what}, ${money(order.total, order.currency)}`);
    pay.addEventListener("click", () => openPayment(order));
    act.append(pay);
  }
  row.append(left, element("div", "total", money(order.total, order.currency)), act);
  return row;
}

// paying is the order in the dialog and the key of this one payment: pressing
// twice, or again after an error, cannot charge twice.
let paying = null;

function openPayment(order) {
  paying = { order, key: crypto.randomUUID() };
  $("pay-amount").textContent = money(order.total, order.currency);
  $("pay-error").textContent = "";
  $("pay-dialog").showModal();
  $("email").focus();
}

async function pay() {
  const { order, key } = paying;
  const payment = await call("POST", "/payments", {
    order_id: order.id,
    amount: order.total,
    email: $("email").value,
    card_token: $("card").value,
    description: $("note").value,
  }, { "Idempotency-Key": key, "Rampart-Nonce": nonce() });
  location.assign(`/receipt?id=${encodeURIComponent(payment.id)}`);
}

async function createOrder(subject) {
  const item = { sku: $("sku").value, quantity: $("quantity").valueAsNumber };
  await call("POST", "/orders", { org: $("org").value, items: [item] });
  await showOrders(subject);
}

async function showReceipt() {
  const id = new URLSearchParams(location.search).get("id") || "";
  const p = await call("GET", `/payments/${encodeURIComponent(id)}`);
  const rows = {
    Amount: money(p.amount, p.currency), Status: p.status, Paid: date(p.created),
    "E-mail": p.email, Note: plain(p.description) || "–", Payment: p.id, Order: p.order_id,
  };
  const cells = Object.entries(rows).flatMap(([k, v]) => [element("dt", "", k), element("dd", "", v)]);
  $("receipt").replaceChildren(...cells);
  $("receipt").dataset.status = p.status;
  $("show-card").addEventListener("click", () => during($("show-card"), say, async () => {
    const { card_ref } = await call("GET", `/payments/${encodeURIComponent(id)}/card`);
    $("card-ref").textContent = card_ref;
  }));
  $("receipt").setAttribute("aria-busy", "false");
}

async function shopPage(subject) {
  const me = await call("GET", "/me");
  $("org").replaceChildren(...me.organizations.map((o) => new Option(o, o)));
  $("new-order").addEventListener("submit", (e) => {
    e.preventDefault();
    during($("create"), say, () => createOrder(subject));
  });
  $("pay-form").addEventListener("submit", (e) => {
    e.preventDefault();
    during($("pay-submit"), (text) => { $("pay-error").textContent = text; }, pay);
  });
  $("pay-cancel").addEventListener("click", () => $("pay-dialog").close());
  await showOrders(subject);
}

async function main() {
  const session = await showWho();
  await ($("receipt") ? showReceipt() : shopPage(session.subject));
}

main().catch((err) => say(err.message));
