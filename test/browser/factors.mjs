// Drives a real browser through second factors: a passkey of the browser's own
// virtual authenticator, a code from an authenticator app, recovery codes, and
// the step-up before what needs two factors. What it needs comes as the first
// line on standard input, one JSON object. Where it meets a QR code it prints a
// line "qr BASE64" with a picture of it, and reads what the code says as the
// next line. Each step is one line; the first thing that is not as it should be
// ends it with exit code 1.
import { createHmac } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const readLine = async () => (await lines.next()).value;
const { base, user, password, other, otherPassword, browser: executablePath, screenshots } = JSON.parse(await readLine());
const cookieName = "__Host-rampart_sid";

const step = (text) => console.log(`ok ${text}`);
function demand(condition, text) {
  if (!condition) throw new Error(text);
  step(text);
}

async function shoot(page, name) {
  if (!screenshots) return;
  mkdirSync(screenshots, { recursive: true });
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true });
}

// listen collects what a page prints to its console and every refusal of its
// content security policy; answers that are refusals on purpose are none.
function listen(page, complaints) {
  page.on("console", (m) => {
    const refusal = /status of (401|403|422|429)/.test(m.text());
    if ((m.type() === "error" || m.type() === "warning") && !refusal) complaints.push(`${m.type()}: ${m.text()} (${m.location().url})`);
  });
  page.on("pageerror", (e) => complaints.push(`page error: ${e.message}`));
}

// device gives the page's browser an authenticator that unlocks by itself.
async function device(context, page) {
  const cdp = await context.newCDPSession(page);
  await cdp.send("WebAuthn.enable", { enableUI: false });
  const { authenticatorId } = await cdp.send("WebAuthn.addVirtualAuthenticator", {
    options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
  });
  const held = async () => (await cdp.send("WebAuthn.getCredentials", { authenticatorId })).credentials;
  return { held, lock: (locked) => cdp.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified: !locked }) };
}

const path = (page) => new URL(page.url()).pathname;
const cookie = async (context) => (await context.cookies()).find((c) => c.name === cookieName)?.value;

// session asks the page's own origin who is signed in.
const session = (page) => page.evaluate(async () => (await fetch("/session")).status);

async function logIn(page, as, secret, next = "/account") {
  await page.goto(`${base}/login?next=${encodeURIComponent(next)}`);
  await page.fill("#username", as);
  await page.fill("#password", secret);
  await page.click("form[action='/login'] button");
}

async function logOut(page) {
  await page.goto(`${base}/account`);
  await page.click("header button");
  await page.waitForURL(`${base}/login`);
}

// payOnce orders and pays, and returns the address of the receipt.
async function payOnce(page) {
  await page.goto(`${base}/`);
  await page.waitForSelector("#orders[aria-busy=false]", { state: "attached" });
  await page.selectOption("#sku", "MUG");
  await page.fill("#quantity", "1");
  await page.click("#create");
  await page.locator("#orders > li button.pay").first().click();
  await page.fill("#email", "alice@example.com");
  await page.click("#pay-submit");
  await page.waitForURL(`${base}/receipt?id=*`);
  await page.waitForSelector("#receipt[data-status]", { state: "attached" });
  return page.url();
}

// passkeys: registered on the account's page, then enough by itself.
async function passkeys(context, page) {
  const phone = await device(context, page);
  await logIn(page, user, password);
  await page.waitForURL(`${base}/account`);
  await shoot(page, "f1-account");
  const receipt = await payOnce(page);
  await page.click("#show-card");
  await page.waitForURL(`${base}/login/step-up?*`);
  demand(new URL(page.url()).searchParams.get("acr") === "aal2" && (await page.textContent("main")).includes("two factors"), "what needs two factors leads who has one to where a second is added");
  await shoot(page, "f1-no-factor");
  await page.goto(`${base}/account/passkeys`);
  const before = await cookie(context);
  await page.fill("#label", "Ann's phone");
  await page.click("form[data-passkey] button");
  await page.waitForURL(`${base}/account/passkeys?done=passkey`);
  demand((await phone.held()).length === 1 && (await phone.held())[0].isResidentCredential, "the authenticator holds a discoverable passkey of this site");
  demand((await page.textContent("main")).includes("Ann's phone"), "the page lists it by its name");
  demand((await cookie(context)) !== before, "the session has a new id");
  await shoot(page, "f2-passkeys");

  await logOut(page);
  await shoot(page, "f3-login");
  await page.click("form[data-passkey] button");
  await page.waitForURL(`${base}/`);
  await page.goto(`${base}/account`);
  demand((await page.textContent("main")).includes("two factors"), "the passkey alone signs in, and counts as two factors");
  demand((await phone.held())[0].signCount >= 1, "it has signed");
  await page.goto(receipt);
  await page.waitForSelector("#receipt[data-status]", { state: "attached" });
  await page.click("#show-card");
  await page.waitForFunction(() => document.querySelector("#card-ref").textContent !== "");
  step("what needs two factors is shown to who has just used them");

  await logOut(page);
  await phone.lock(true);
  await page.click("form[data-passkey] button");
  await page.waitForSelector("form[data-passkey] [role=alert]");
  demand(!(await cookie(context)), "who cannot unlock the device is not signed in, and told so");
  await shoot(page, "f4-passkey-refused");
  await phone.lock(false);

  await logIn(page, user, password);
  await page.waitForURL(`${base}/login/factor`);
  demand(!(await cookie(context)) && (await session(page)) === 401, "a password alone is no session any more");
  await shoot(page, "f5-second-step");
  await page.click("form[data-passkey] button");
  await page.waitForURL(`${base}/account`);
  step("the passkey is the second step after a password");

  const old = await cookie(context);
  await page.goto(`${base}/login/step-up?acr=aal2&max_age=0&next=%2Faccount%2Fpassword`);
  if (path(page) === "/login/step-up") throw new Error("a proof of this moment is asked for again");
  step("a proof of this very moment is not asked for twice");
  await new Promise((r) => setTimeout(r, 11_000));
  await page.goto(`${base}/login/step-up?acr=aal2&max_age=0&next=%2Faccount%2Fpassword`);
  await shoot(page, "f6-step-up");
  await page.click("form[data-passkey] button");
  await page.waitForURL(`${base}/account/password`);
  demand((await cookie(context)) !== old, "a step-up by passkey leads on, with a new session id");
  await shoot(page, "f7-password");
}

// totp computes a code as the app does, from what the QR code says.
function totp(uri, at) {
  const url = new URL(uri);
  if (url.protocol !== "otpauth:" || !uri.startsWith("otpauth://totp/")) throw new Error(`the QR code says ${url.protocol}`);
  const q = url.searchParams;
  if (q.get("algorithm") !== "SHA1" || q.get("digits") !== "6" || q.get("period") !== "30") throw new Error(`the QR code says ${url.search.replace(q.get("secret"), "...")}`);
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  let bits = "";
  for (const c of q.get("secret")) bits += alphabet.indexOf(c).toString(2).padStart(5, "0");
  const key = Buffer.from(bits.match(/.{8}/g).map((b) => parseInt(b, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(at / 30_000)));
  const sum = createHmac("sha1", key).update(counter).digest();
  return String((sum.readUInt32BE(sum[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}

async function codes(context, page) {
  await logIn(page, other, otherPassword);
  await page.waitForURL(`${base}/account`);
  await page.goto(`${base}/account/totp`);
  await shoot(page, "f8-totp");
  await page.click("main form button");
  await shoot(page, "f9-totp-qr");
  await page.locator("svg.qr").evaluate((code) => { // a phone comes closer: each module is eight whole pixels
    code.style.maxWidth = "none";
    code.style.width = code.style.height = `${8 * code.viewBox.baseVal.width}px`;
  });
  const picture = await page.locator("svg.qr").screenshot();
  console.log(`qr ${picture.toString("base64")}`);
  const uri = await readLine();
  step("the QR code on the page reads as a key URI");
  await page.fill("#code", "000000");
  await page.click("form[action$=confirm] button");
  demand((await page.locator("[role=alert]").isVisible()) && (await page.locator("svg.qr").isVisible()), "a wrong code turns nothing on, and the QR code stays");
  const first = Date.now();
  await page.fill("#code", totp(uri, first));
  await page.click("form[action$=confirm] button");
  await page.waitForURL(`${base}/account/totp?done=totp`);
  step("the code of the app turns it on");
  await shoot(page, "f10-totp-on");

  await page.goto(`${base}/account/recovery`);
  await page.click("main form button");
  await page.waitForURL(`${base}/account/recovery?done=codes`);
  const recovery = await page.locator(".codes code").allTextContents();
  demand(recovery.length === 10 && new Set(recovery).size === 10, "there are ten recovery codes");
  await shoot(page, "f11-recovery");
  await page.reload();
  demand((await page.locator(".codes code").count()) === 0 && (await page.textContent("main")).includes("10"), "a reload shows them no more, and leaves them good");
  await shoot(page, "f11-recovery-reloaded");

  await logOut(page);
  await logIn(page, other, otherPassword);
  await page.waitForURL(`${base}/login/factor`);
  await page.fill("#code", totp(uri, first));
  await page.click("form:has(#code) button");
  demand((await page.textContent("[role=alert]")).includes("used"), "the code that turned it on is refused as used");
  await shoot(page, "f12-used-code");
  const second = totp(uri, first + 30_000); // the app's clock may be half a minute ahead
  await page.fill("#code", second);
  await page.click("form:has(#code) button");
  await page.waitForURL(`${base}/account`);
  demand((await page.textContent("main")).includes("two factors"), "password and code sign in with two factors");

  await logOut(page);
  await logIn(page, other, otherPassword);
  await page.fill("#code", second);
  await page.click("form:has(#code) button");
  demand((await page.textContent("[role=alert]")).includes("used"), "a used code is refused");
  await useRecovery(page, recovery[0]);
  await page.waitForURL(`${base}/account`);
  step("a recovery code stands in for the phone");
  await logOut(page);
  await logIn(page, other, otherPassword);
  await useRecovery(page, recovery[0]);
  demand((await page.textContent("[role=alert]")).includes("used") && !(await cookie(context)), "a used recovery code is refused");
  await shoot(page, "f13-used-recovery");
  await useRecovery(page, recovery[1].toUpperCase().replaceAll("-", " "));
  await page.waitForURL(`${base}/account`);
  await shoot(page, "f14-account-two");
  await page.goto(`${base}/account/sessions`);
  await shoot(page, "f15-devices");
}

async function useRecovery(page, code) {
  if (!(await page.locator("#recovery").isVisible())) await page.click("summary");
  await page.fill("#recovery", code);
  await page.click("form:has(#recovery) button");
}

// phoneSignIn looks at signing in as a phone in the dark shows it.
async function phoneSignIn(browser) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 375, height: 720 }, colorScheme: "dark" });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  await device(context, page);
  await page.goto(`${base}/login`);
  await shoot(page, "f20-login-phone");
  await logIn(page, user, password);
  await page.waitForURL(`${base}/login/factor`);
  await shoot(page, "f21-second-step-phone");
  const fits = () => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
  demand(await fits(), "the second step fits a phone");
  await context.close();
}

// phoneAccount looks at the pages of an account there.
async function phoneAccount(browser, state) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 375, height: 720 }, colorScheme: "dark", storageState: state });
  const page = await context.newPage();
  for (const name of ["", "/passkeys", "/totp", "/recovery", "/password", "/sessions"]) {
    await page.goto(`${base}/account${name}`);
    await shoot(page, `f22-phone${name.replace("/", "-")}`);
    if (!(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth))) throw new Error(`/account${name} is wider than a phone`);
  }
  step("the pages of an account fit a phone");
  await context.close();
}

// plain is a browser without scripts: all but passkeys works.
async function plain(browser) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, javaScriptEnabled: false, viewport: { width: 1000, height: 800 } });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  await logIn(page, user, password);
  await page.waitForURL(`${base}/login/factor`);
  demand(!(await page.locator("form[data-passkey]").isVisible()), "without scripts no button is shown that does nothing");
  await shoot(page, "f30-no-script");
  await context.close();
}

const browser = await chromium.launch({
  executablePath,
  args: ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const complaints = [];
  const open = async () => {
    const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1000, height: 800 }, locale: "en-IE", timezoneId: "Europe/Dublin" });
    context.setDefaultTimeout(20_000);
    const page = await context.newPage();
    listen(page, complaints);
    return [context, page];
  };
  const [first, alice] = await open();
  await passkeys(first, alice);
  const [second, bob] = await open();
  await codes(second, bob);
  await phoneSignIn(browser);
  await phoneAccount(browser, await second.storageState());
  await plain(browser);
  demand(complaints.length === 0, `no page broke its own rules${complaints.map((c) => `\n  ${c}`).join("")}`);
} catch (err) {
  console.error(`not ok ${err.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
  process.stdin.destroy();
}
