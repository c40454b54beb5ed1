// Chromium, driven by Playwright, opens a page; what the page tells goes out as one JSON line. Argument: the page's URL.
const {chromium} = require('playwright-core');

async function main() {
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--no-first-run'],
  });
  const page = await browser.newPage();
  page.setDefaultTimeout(60000);
  const response = await page.goto(process.argv[2]);
  await page.waitForFunction(() => window.told);
  console.log(JSON.stringify({status: response.status(), security: await response.securityDetails(), ...await page.evaluate(() => window.told)}));
  const denied = await page.goto('https://denied.example.test/', {waitUntil: 'load'});
  console.log(JSON.stringify({denied: denied.status(), reason: denied.headers()['x-postern-reason'], text: await page.innerText('body')}));
  await browser.close();
}
main().catch(error => { console.error(String(error)); process.exit(1); });
