package bucket

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob" // for s3:// URLs
)

// clearUploads aborts what uploads left behind that a crash cut off: nobody sees the
// parts, but they are paid for. That it may be forbidden, unknown to the store or
// impossible just now is no reason not to start: a rule of the bucket's life cycle can
// do the same (docs/artifacts-delivery.md).
func clearUploads(ctx context.Context, b *blob.Bucket, name, prefix string) {
	var client *s3.Client
	if !b.As(&client) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	uploads := s3.NewListMultipartUploadsPaginator(client, &s3.ListMultipartUploadsInput{Bucket: &name, Prefix: &prefix})
	for uploads.HasMorePages() {
		page, err := uploads.NextPage(ctx)
		if err != nil {
			return
		}
		for _, upload := range page.Uploads {
			if time.Since(aws.ToTime(upload.Initiated)) < abandoned {
				continue // another replica is writing it
			}
			_, _ = client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &name, Key: upload.Key, UploadId: upload.UploadId}) // the next start tries again
		}
	}
}
