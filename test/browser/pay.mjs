// Drives a real browser through the payment page: log in, pay, receipt, a second
// tab, log out. What it needs comes as one JSON object on standard input, so
// that no password stands in a list of processes; each step is one line on
// standard output, and the first thing that is not as it should be ends it with
// exit code 1.
import { readFileSync, mkdirSync } from "node:fs";
import { request } from "node:https";
import { join } from "node:path";
import { chromium } from "playwright-core";

const { base, user, password, browser: executablePath, ca, screenshots } = JSON.parse(readFileSync(0, "utf8"));
const cookieName = "__Host-rampart_sid";

const step = (text) => console.log(`ok ${text}`);
function demand(condition, text) {
  if (!condition) throw new Error(text);
  step(text);
}

// complaints collects whatever a page prints to its console and every refusal
// of its content security policy.
function listen(page, complaints) {
  page.on("console", (m) => {
    if (m.type() === "error" || m.type() === "warning") complaints.push(`${m.type()}: ${m.text()} (${m.location().url})`);
  });
  page.on("pageerror", (e) => complaints.push(`page error: ${e.message}`));
  page.on("requestfailed", (r) => {
    if (!r.failure()?.errorText.includes("ERR_ABORTED")) complaints.push(`request failed: ${r.url()} ${r.failure()?.errorText}`);
  });
}

async function shoot(page, name) {
  if (!screenshots) return;
  mkdirSync(screenshots, { recursive: true });
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true });
}

// status asks an API path with one cookie, outside of the browser.
function status(path, cookie) {
  return new Promise((resolve, reject) => {
    const url = new URL(path, base);
    const req = request(url, { ca: readFileSync(ca), headers: { Cookie: `${cookieName}=${cookie}` } }, (res) => {
      res.resume();
      resolve(res.statusCode);
    });
    req.on("error", reject);
    req.setTimeout(10_000, () => req.destroy(new Error(`${path} does not answer`)));
    req.end();
  });
}

async function logIn(page, as, secret) {
  await page.fill("#username", as);
  await page.fill("#password", secret);
  await page.click("button[type=submit]");
}

async function order(page, sku, quantity) {
  const before = await page.locator("#orders > li").count();
  await page.selectOption("#sku", sku);
  await page.fill("#quantity", String(quantity));
  await page.click("#create");
  await page.waitForFunction((n) => document.querySelectorAll("#orders > li").length > n, before);
}

// settled waits until the list of orders has been filled.
const settled = (page) => page.waitForSelector("#orders[aria-busy=false]", { state: "attached" });

async function shop(context, complaints) {
  const page = await context.newPage();
  listen(page, complaints);
  await page.goto(base + "/");
  demand(new URL(page.url()).pathname === "/login", "without a session the browser lands on the login page");
  await shoot(page, "1-login");

  complaints.length = 0; // below, one answer is a refusal on purpose, which Chromium reports as an error
  await logIn(page, user, "not the password");
  demand(await page.locator("[role=alert]").isVisible(), "a wrong password is told");
  await shoot(page, "2-login-refused");
  complaints.splice(0, complaints.length, ...complaints.filter((c) => !c.includes("status of 401")));

  await logIn(page, user, password);
  await page.waitForURL(base + "/");
  await settled(page);
  demand((await page.textContent("#who")).includes(user), "after login the page says who is logged in");
  demand((await context.cookies()).every((c) => c.name.startsWith("__Host-rampart_") && c.httpOnly && c.secure && c.sameSite !== "None"), "every cookie is this host's, HttpOnly, Secure and same-site");
  demand((await page.evaluate(() => document.cookie)) === "", "no script sees it");
  await order(page, "MUG", 2);
  await order(page, "TEE", 1);
  step("orders are placed and listed");
  await shoot(page, "3-orders");
  return page;
}

async function pay(page) {
  const row = page.locator("#orders > li", { has: page.locator("button.pay") }).first();
  const id = await row.getAttribute("data-id");
  const total = (await row.locator(".total").textContent()).trim();
  await row.locator("button.pay").click();
  await page.fill("#email", "alice@example.com");
  await page.fill("#note", "<b>For</b> the office & me");
  await shoot(page, "4-pay");
  await page.click("#pay-submit");
  await page.waitForURL(base + "/receipt?id=*");
  await page.waitForSelector("#receipt[data-status]", { state: "attached" });
  const text = await page.textContent("#receipt");
  demand(await page.getAttribute("#receipt", "data-status") === "completed", "the receipt says that the payment is completed");
  demand(text.includes(total) && text.includes(id), "it names the order and what the order cost");
  demand(text.includes("For the office & me"), "the note is text, without the markup");
  await shoot(page, "5-receipt");
  return id;
}

async function secondTab(context, complaints, id) {
  const tab = await context.newPage();
  listen(tab, complaints);
  await tab.goto(base + "/");
  await settled(tab);
  demand((await tab.textContent("#who")).includes(user), "a second tab has the same session");
  demand(await tab.locator(`#orders > li[data-id="${id}"] a.paid`).isVisible(), "and shows the order as paid");
  await shoot(tab, "6-second-tab");
  return tab;
}

async function logOut(context, page, tab, complaints) {
  const cookie = (await context.cookies()).find((c) => c.name === cookieName).value;
  demand((await status("/orders", cookie)) === 200, "the session answers while it lives");
  demand(complaints.length === 0, `nothing was refused or reported by the browser so far${complaints.map((c) => `\n  ${c}`).join("")}`);
  await page.goto(base + "/");
  await settled(page);
  await page.click("#logout");
  await page.waitForURL(base + "/login");
  step("logging out leads to the login page");
  demand((await context.cookies()).every((c) => c.name !== cookieName), "the cookie is gone");
  demand((await status("/orders", cookie)) === 401, "the old cookie is dead");
  await tab.click("#create");
  await tab.waitForURL(base + "/login?next=*");
  step("the other tab's next action lands on the login page");
  const odd = complaints.filter((c) => !c.includes("status of 401"));
  demand(odd.length === 0, `only the refusal itself was reported by the browser${odd.map((c) => `\n  ${c}`).join("")}`);
}

// narrow looks at the pages as a phone in the dark shows them.
async function narrow(browser) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 375, height: 720 }, colorScheme: "dark" });
  const page = await context.newPage();
  await page.goto(base + "/");
  await shoot(page, "7-login-phone");
  await logIn(page, user, password);
  await page.waitForURL(base + "/");
  await settled(page);
  const fits = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
  await shoot(page, "8-orders-phone");
  demand(fits, "the page fits a phone");
  await page.locator("button.pay").first().click();
  await shoot(page, "9-pay-phone");
  await context.close();
}

const browser = await chromium.launch({
  executablePath,
  args: ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1100, height: 800 }, locale: "en-IE", timezoneId: "Europe/Dublin" });
  context.setDefaultTimeout(20_000);
  const complaints = [];
  const page = await shop(context, complaints);
  const id = await pay(page);
  const tab = await secondTab(context, complaints, id);
  await narrow(browser);
  await logOut(context, page, tab, complaints);
} catch (err) {
  console.error(`not ok ${err.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
