import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import javax.net.ssl.HttpsURLConnection;

/** A call as Java programs make it: both of the platform's clients, with the trust of its own key store. */
public class Client {
    public static void main(String[] words) throws Exception {
        URI address = URI.create(words[1]);
        if (words[0].equals("HttpClient")) {
            HttpRequest request = HttpRequest.newBuilder(address).build();
            System.out.print(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
        } else {
            HttpsURLConnection connection = (HttpsURLConnection) address.toURL().openConnection();
            System.out.print(new String(connection.getInputStream().readAllBytes()));
        }
    }
}
